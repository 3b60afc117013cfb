"""gRPC through the gateway: which service a call is for, and what of it may be asked twice.

A gRPC call names its model inside its message, and may name a version. The headers `x-slipway-model` and
`x-slipway-version` say it outside; a unary call without the first gets both from a filter that reads the
message's first two fields. Whose health is asked for is always read there: any pod answers for what is no
model here, so nobody shall say outside that a model is none. The same filter refuses what is packed in a way
that no pod reads: UNIMPLEMENTED, as https://github.com/grpc/grpc/blob/master/doc/compression.md wants it,
which from a pod would be its error.
"""

from __future__ import annotations

from string import Template

from serving.gateway.methods import GRPC_SERVICE, HEALTH_CALLS
from serving.gateway.xds import Message, typed

FILTER = "envoy.filters.http.lua"
MODEL_HEADER, VERSION_HEADER = "x-slipway-model", "x-slipway-version"
PREFIX = f"/{GRPC_SERVICE}/"
STREAM = PREFIX + "ModelStreamInfer"

# In the header, for a question for health that is not a name alone. No service can have this name.
UNREAD = "(unread)"

# Answers that REST gives as 5xx. Errors come as headers alone, so Envoy sees them before it passes them on.
RETRIED = "internal,unavailable,deadline-exceeded"


def model_filter() -> Message:
    """For the listener. Source of the formats: gRPC over HTTP/2, and protobuf's encoding."""
    return typed(
        "envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": _NAME_THE_MODEL}
    )


# Streams are left alone (their end may be far away), and so are compressed messages: both need the header. So
# do messages over 16 MiB: Envoy holds no more for a filter.
_NAME_THE_MODEL = Template(
    """
local prefix, stream, health, unread = "$prefix", "$stream", "$health", "$unread"
local encodings = {identity = true, gzip = true, deflate = true}

local function varint(text, at)
  local value, factor = 0, 1
  for i = at, math.min(at + 4, #text) do
    local byte = text:byte(i)
    value = value + (byte % 128) * factor
    if byte < 128 then return value, i + 1 end
    factor = factor * 128
  end
end

-- The field with this tag at this place, if it is there and a plain name, and where the next one begins.
local function text(start, at, tag)
  if start:byte(at) ~= tag then return end
  local length, first = varint(start, at + 1)
  if length == nil or length == 0 or first + length - 1 > #start then return end
  local name = start:sub(first, first + length - 1)
  if name:find("[^%w_.-]") then return end
  return name, first + length
end

-- The name in a message of health's, nil if it is empty. What follows could be another name: the last counts.
local function asked_of(body)
  local length = body:length()
  local start = length > 0 and body:getBytes(0, math.min(length, 400)) or ""
  if start == "\\0\\0\\0\\0\\0" then return end
  if start:byte(1) ~= 0 then return unread end
  local name, ends = text(start, 6, 10)
  if name == nil or ends ~= length + 1 then return unread end
  return name
end

local function name_what_is_asked_of(handle)
  local name = asked_of(handle:body(true))
  local headers = handle:headers()
  if name then headers:replace("$header", name) else headers:remove("$header") end
  handle:clearRouteCache()
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local encoding, spoken = headers:get("grpc-encoding"), headers:get("content-type") or ""
  if encoding and not encodings[encoding] and spoken:find("^application/grpc") then
    local taken = {[":status"] = "501", ["grpc-accept-encoding"] = "identity,deflate,gzip"}
    return handle:respond(taken, "unknown grpc-encoding: send identity, gzip or deflate")
  end
  local path = headers:get(":path")
  if path:sub(1, #health) == health then return name_what_is_asked_of(handle) end
  if path:sub(1, #prefix) ~= prefix or path == stream or headers:get("$header") then return end
  local body = handle:body(true)
  if body == nil or body:length() < 7 then return end
  local start = body:getBytes(0, math.min(body:length(), 400))
  if start:byte(1) ~= 0 then return end
  local name, second = text(start, 6, 10)
  if name == nil then return end
  local asked = text(start, second, 18)
  -- The first object ended when the script waited for the body.
  headers = handle:headers()
  headers:add("$header", name)
  if asked then headers:replace("$version", asked) else headers:remove("$version") end
  handle:clearRouteCache()
end
"""
).substitute(
    prefix=PREFIX,
    stream=STREAM,
    health=HEALTH_CALLS,
    header=MODEL_HEADER,
    version=VERSION_HEADER,
    unread=UNREAD,
)
