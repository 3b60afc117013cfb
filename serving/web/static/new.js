// The form of a new release: what would run, then starting it. Comes after slipway.js and uses what is there.
"use strict";

function element(name, text, ...inside) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...inside);
  return made;
}
function span(seconds) {
  if (seconds < 60) return `${+seconds.toFixed(1)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
function described(run) {
  const facts = {
    Version: run.serves_now && run.serves_now !== run.version ? `v${run.version}, in place of v${run.serves_now}` : `v${run.version}`,
    Traffic: run.steps.map((step) => `${step.weight} % for ${span(step.hold_seconds)}`).join(", then "),
    Watch: `${span(run.watch_seconds)} with the version before kept warm`,
    Tries: `${run.precisions.join(", ")} for ${run.targets.join(", ")}`,
    Approval: run.approval ? `${run.approval.required} of ${run.approval.approvers.join(", ")}` : "none needed",
    Spec: run.digest.slice(0, 19),
  };
  const list = document.createElement("dl");
  for (const [name, text] of Object.entries(facts)) list.append(element("dt", name), element("dd", text));
  const box = element("div", "", element("strong", `Release ${run.model} v${run.version}`), list);
  box.className = "preview-box";
  for (const text of run.warnings) box.append(Object.assign(element("p", text), { className: "banner warn" }));
  return box;
}
function releaseForm(form) {
  const problem = byId("release-problem");
  // What starts is what was shown, or nothing: sent along, and gone as soon as something else is asked for.
  let seen = {};
  const forget = () => { seen = {}; byId("preview").replaceChildren(); };
  const chosen = () => {
    const version = form.version.value.trim();
    return { model: form.model.value, ...(version ? { version } : {}) };
  };
  async function preview() {
    problem.hidden = true;
    forget();
    if (!form.model.reportValidity() || !form.version.reportValidity()) return;
    const asked = new URLSearchParams(chosen()).toString();
    try {
      const said = await fetch(`${form.dataset.api}/preview?${asked}`, { headers: { accept: "application/json" } });
      const found = await said.json();
      if (!said.ok) throw found;
      if (asked !== new URLSearchParams(chosen()).toString()) return;
      seen = { expected_version: found.version, expected_digest: found.digest };
      byId("preview").replaceChildren(described(found));
    } catch (found) { showProblem(problem, found); }
  }
  for (const input of [form.model, form.version]) input.addEventListener("input", forget);
  byId("preview-button").addEventListener("click", preview);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    const go = form.querySelector("button.primary");
    go.disabled = true;
    try {
      const started = await send(form.dataset.api, "POST", { ...chosen(), ...seen, reason: form.reason.value.trim() });
      location.assign(`${base}/releases/${encodeURIComponent(started.release_id)}`);
    } catch (found) { showProblem(problem, found); go.disabled = false; }
  });
}

releaseForm(byId("release-form"));
