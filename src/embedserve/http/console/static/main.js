/** Wires the form to the API and the answer to its views. */

import { ApiError, embed, key, sparseModels } from "./api.js";
import { $, make, number } from "./dom.js";
import { restoreDraft, watchDraft } from "./draft.js";
import * as example from "./example.js";
import { showMap, watchMap } from "./heatmap.js";
import { refreshStrip, showRecipe, watchServer } from "./operator.js";
import { showRanking, watchRanking } from "./ranking.js";
import { showRequests, watchRequests } from "./snippets.js";
import { readRow } from "./vectors.js";

let cards = new Map();

function askForKey() {
  const command = make("code", {}, "embedserve keys create");
  $("key-missing").replaceChildren("Nothing is embedded without a key: the first start printed one, ", command, " makes another.");
  $("key-missing").hidden = false;
  $("key-hint").hidden = true;
  $("key-asked").classList.add("wanted");
  $("key").setAttribute("aria-invalid", "true");
  $("key").focus();
}

function showKey() {
  $("key-missing").hidden = true;
  $("key-hint").hidden = false;
  $("key-asked").classList.remove("wanted");
  $("key").removeAttribute("aria-invalid");
  const known = key.get();
  $("key-asked").hidden = Boolean(known);
  $("key-known").hidden = !known;
  $("key-tail").textContent = known.length > 8 ? `…${known.slice(-4)}` : "set";
}

function fillExample() {
  $("query").value = example.QUERY;
  $("texts").value = example.TEXTS.join("\n");
  countTexts();
}

const texts = () => $("texts").value.split("\n").filter((line) => line.trim());

function countTexts() {
  $("texts-count").textContent = `${number(texts().length)}, one a line`;
}

const option = (value) => make("option", { value }, String(value));

function showModel() {
  const card = cards.get($("model").value);
  if (!card) return;
  const before = $("dimension").value;
  $("dimension").replaceChildren(
    ...card.dimensions.map((size) => option(size)),
  );
  $("dimension").value = card.dimensions.map(String).includes(before) ? before : String(card.default_dimension);
  $("instruct").disabled = !card.instruct;
  showRecipe(card);
}

/** The models and their limits, once the key opens them. */
async function learnModels() {
  const models = await sparseModels();
  cards = new Map(models.map(({ id, embedserve }) => [id, embedserve]));
  const before = $("model").value;
  $("model").replaceChildren(...models.map(({ id }) => option(id)));
  if (cards.has(before)) $("model").value = before;
  showModel();
  $("key").value = "";
  showKey();
}

/** The bodies to send, with what to call their texts: no more texts in one than the server takes. */
function compose(query, lines, card) {
  const type = $("text-type").value;
  const instruct = card.instruct && $("instruct").value.trim();
  const parametersOf = (textType) => ({
    dimension: Number($("dimension").value),
    output_type: "dense&sparse",
    ...(textType && { text_type: textType }),
    ...(textType !== "document" && instruct && { instruct }),
  });
  const model = $("model").value;
  const requests = [];
  const add = (texts, names, parameters) => {
    for (let at = 0; at < texts.length; at += card.max_rows) {
      const part = (all) => all.slice(at, at + card.max_rows);
      requests.push({ body: { model, input: { texts: part(texts) }, parameters }, names: part(names) });
    }
  };
  const names = lines.map((_, i) => `Text ${i + 1}`);
  const split = type === "split";
  if (split && query !== null) add([query], ["Query"], parametersOf("query"));
  if (split) add(lines, names, parametersOf("document"));
  else if (query === null) add(lines, names, parametersOf(type));
  else add([query, ...lines], ["Query", ...names], parametersOf(type));
  // Nothing to embed is sent too: what is wrong with it is the server's to say.
  if (!requests.length) requests.push({ body: { model, input: { texts: [] }, parameters: parametersOf("") }, names });
  return requests;
}

/** In one column the answer is below the form. */
function bringIntoView(element) {
  if (matchMedia("(max-width: 60rem)").matches) element.scrollIntoView();
}

/** Marks what is shown as the answer to an earlier request, or takes the mark away. */
function outdate(now) {
  const marked = now && !$("ranking").hidden;
  $("results").classList.toggle("outdated", marked);
  for (const note of document.querySelectorAll(".stale")) note.hidden = !marked;
}

/** Which text a refusal is about, as far as the server says. */
function culpritOf({ row, sent }) {
  if (!sent?.names.length) return "";
  const { names, body } = sent;
  const told = row !== null && row in names;
  if (!told && names.length > 1) return make("p", { class: "hint" }, `in the request from ${names[0]} to ${names.at(-1)}`);
  const at = told ? row : 0;
  return make("p", { class: "culprit" }, make("b", {}, names[at]), make("span", { dir: "auto" }, clip(body.input.texts[at])));
}

const clip = (text) => (text.length > 300 ? `${text.slice(0, 300)}…` : text);

function showProblem(error) {
  if (!(error instanceof ApiError)) throw error;
  outdate(true);
  $("problem").replaceChildren(
    make("h2", {}, error.status ? `${error.status} ` : "", make("code", {}, error.code)),
    make("p", {}, error.message),
    error.status === 400 ? culpritOf(error) : "",
    error.requestId ? make("p", { class: "hint" }, "request id ", make("code", {}, error.requestId)) : "",
  );
  $("problem").hidden = false;
  bringIntoView($("problem"));
  if (error.status === 401) {
    key.forget();
    showKey();
    $("key").focus();
  }
}

function busy(now) {
  $("run").disabled = now;
  $("run").firstChild.data = now ? "Embedding… " : "Embed ";
  $("results").setAttribute("aria-busy", String(now));
}

async function run() {
  if ($("key").value.trim()) {
    key.set($("key").value.trim());
  } else if (!key.get()) {
    askForKey();
    return;
  }
  busy(true);
  $("problem").hidden = true;
  try {
    if (!cards.size) await learnModels();
    const query = $("query").value.trim() || null;
    const lines = texts();
    const card = cards.get($("model").value);
    const started = performance.now();
    const requests = [];
    for (const request of compose(query, lines, card)) {
      try {
        requests.push({ ...request, reply: await embed(request.body) });
      } catch (error) {
        throw Object.assign(error, { sent: request });
      }
    }
    const milliseconds = performance.now() - started;
    show(query, lines, card, requests, milliseconds);
  } catch (error) {
    showProblem(error);
  } finally {
    busy(false);
    refreshStrip();
  }
}

function show(query, lines, card, requests, milliseconds) {
  const rows = requests.flatMap(({ body, reply }) =>
    reply.body.output.embeddings.map((row) => readRow(row, body.input.texts[row.text_index])),
  );
  const tokens = requests.reduce((sum, { reply }) => sum + reply.body.usage.total_tokens, 0);
  const [asked, answers] = query === null ? [null, rows] : [rows[0], rows.slice(1)];
  $("empty").hidden = true;
  outdate(false);
  showRanking(asked, answers, { milliseconds, tokens, requests: requests.length });
  showRequests(requests, { query, texts: lines, rows: card.max_rows });
  bringIntoView($("results"));
  $("said").textContent = query === null ? `${rows.length} texts embedded.` : `${answers.length} texts ranked.`;
}

function start() {
  showKey();
  if (restoreDraft()) countTexts();
  else fillExample();
  watchDraft();
  watchRanking(showMap);
  watchMap();
  watchRequests();
  watchServer();
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  $("composer").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("composer").requestSubmit();
  });
  $("key").addEventListener("input", showKey);
  $("example").addEventListener("click", () => {
    fillExample();
    $("texts").dispatchEvent(new Event("input", { bubbles: true }));
  });
  $("texts").addEventListener("input", countTexts);
  $("model").addEventListener("change", showModel);
  $("key-forget").addEventListener("click", () => {
    key.forget();
    cards.clear();
    showKey();
    $("key").focus();
  });
  if (key.get()) learnModels().catch(showProblem);
}

start();
