/** What was typed, kept for a reload: in this tab only, and never the key. */

import { $, make } from "./dom.js";

const SLOT = "embedserve.draft";
const FIELDS = ["query", "texts", "model", "dimension", "text-type", "instruct"];
const PAUSE = 300; // milliseconds without a keystroke

let timer;

function save() {
  clearTimeout(timer);
  const draft = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  try {
    sessionStorage.setItem(SLOT, JSON.stringify(draft));
  } catch {
    sessionStorage.removeItem(SLOT); // more than a tab may keep: rather nothing than an old draft
  }
}

/** Fill the form in as it was left. Returns whether there was something. */
export function restoreDraft() {
  let draft;
  try {
    draft = JSON.parse(sessionStorage.getItem(SLOT));
  } catch {
    return false;
  }
  if (!draft) return false;
  for (const id of FIELDS) {
    const field = $(id);
    const value = draft[id] ?? field.value;
    // Models and their dimensions are learned later; until then the choice stands alone.
    const lacks = field instanceof HTMLSelectElement && ![...field.options].some((option) => option.value === value);
    if (lacks) field.append(make("option", { value }, value));
    field.value = value;
  }
  return true;
}

export function watchDraft() {
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(save, PAUSE);
  };
  $("composer").addEventListener("input", (event) => event.target.id !== "key" && later());
  $("composer").addEventListener("change", (event) => event.target.id !== "key" && save());
  addEventListener("pagehide", save);
}
