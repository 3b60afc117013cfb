{{/* `slipway`, or the release's name where that is another: two Slipways of one namespace do not meet. */}}
{{- define "slipway.name" -}}
{{- if eq .Release.Name "slipway" -}}slipway{{- else -}}{{ printf "%s-slipway" (.Release.Name | trunc 40 | trimSuffix "-") }}{{- end -}}
{{- end -}}

{{- define "slipway.labels" -}}
{{ include "slipway.selector" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The least that stays for ever: selectors cannot be changed. */}}
{{- define "slipway.selector" -}}
app.kubernetes.io/name: slipway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "slipway.image" -}}
{{- $registry := .root.Values.images.registry -}}
{{- printf "%sslipway-%s:%s" (ternary (printf "%s/" (trimSuffix "/" $registry)) "" (ne $registry "")) .what (default .root.Chart.AppVersion .root.Values.images.tag) -}}
{{- end -}}

{{- define "slipway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "slipway.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "slipway.tokens" -}}
{{- default (printf "%s-tokens" (include "slipway.name" .)) .Values.tokensSecret -}}
{{- end -}}

{{- define "slipway.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "slipway.monitored" -}}
{{- $has := and (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PrometheusRule") -}}
{{- if or (eq (toString .Values.monitoring.enabled) "true") (and (eq (toString .Values.monitoring.enabled) "auto") $has) -}}true{{- end -}}
{{- end -}}
