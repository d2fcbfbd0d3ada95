/** The requests that were sent, as commands to run elsewhere, and the replies as they came. */

import { NATIVE_PATH, address } from "./api.js";
import { $, number } from "./dom.js";

const FORMS = ["curl", "python", "json"];
const HINTS = {
  curl: "The key is read from the environment; it is never written here.",
  python: "Needs the packages dashscope and numpy; the key is read from the environment.",
  json: "",
};

let current = { curl: "", python: "", json: "" };
let whole = "";

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curlOf({ body }) {
  return [
    `curl ${address(NATIVE_PATH)}`,
    `  -H "Authorization: Bearer $DASHSCOPE_API_KEY"`,
    `  -H 'Content-Type: application/json'`,
    `  -d ${quote(JSON.stringify(body, null, 2))}`,
  ].join(" \\\n");
}

// A JSON string is a Python string too; that of a lone surrogate as well.
const literal = (value) => JSON.stringify(value);

const listOf = (texts) => `[\n${texts.map((text) => `    ${literal(text)},\n`).join("")}]`;

/** A whole program: the same requests through the vendor's SDK, then the ranking that the page shows. */
function pythonOf(requests, { query, texts, rows }) {
  const { model } = requests[0].body;
  const call = (name, parameters) => `def ${name}(texts):
    rows = []
    for start in range(0, len(texts), ${rows}):
        reply = dashscope.TextEmbedding.call(
            model=${literal(model)},
            input=texts[start : start + ${rows}],
${Object.entries(parameters).map(([option, value]) => `            ${option}=${literal(value)},`).join("\n")}
        )
        if reply.status_code != 200:
            raise SystemExit(f"{reply.code}: {reply.message}")
        rows += reply.output["embeddings"]
    return rows


`;
  const ofQuery = requests[0].body.parameters;
  const ofTexts = requests.at(-1).body.parameters;
  const head = `import os

import dashscope
${query === null ? "" : "import numpy as np\n"}
dashscope.api_key = os.environ["DASHSCOPE_API_KEY"]
dashscope.base_http_api_url = ${literal(address("api/v1"))}

${query === null ? "" : `query = ${literal(query)}\n`}texts = ${listOf(texts)}


`;
  if (query === null) {
    return `${head}${call("embed", ofTexts)}for text, row in zip(texts, embed(texts)):
    print(len(row["embedding"]), len(row["sparse_embedding"]), text)
`;
  }
  const alike = ofQuery.text_type === ofTexts.text_type;
  const texter = alike ? "embed_query" : "embed_texts";
  return `${head}${call("embed_query", ofQuery)}${alike ? "" : call("embed_texts", ofTexts)}def sparse_dot(a, b):
    weights = {entry["index"]: entry["value"] for entry in b}
    return sum(entry["value"] * weights.get(entry["index"], 0.0) for entry in a)


asked = embed_query([query])[0]
ranking = []
for text, row in zip(texts, ${texter}(texts)):
    dense = float(np.dot(asked["embedding"], row["embedding"]))  # unit vectors: the cosine
    sparse = sparse_dot(asked["sparse_embedding"], row["sparse_embedding"])
    ranking.append((dense, sparse, dense + 0.05 * sparse, text))
for dense, sparse, both, text in sorted(ranking, reverse=True):
    print(f"{dense:.4f}  {sparse:.4f}  {both:.4f}  {text}")
`;
}

/** The reply to read: vectors are shown by their ends, sparse entries a line each. */
function readable(body) {
  const shorten = (name, value) => {
    if (name === "embedding" && Array.isArray(value) && value.length > 6) {
      return `@[${value.slice(0, 4).join(", ")}, … ${number(value.length)} numbers … , ${value.at(-1)}]@`;
    }
    if (name === "sparse_embedding" && Array.isArray(value)) {
      return value.map((entry) => `@${JSON.stringify(entry)}@`);
    }
    return value;
  };
  return JSON.stringify(body, shorten, 2).replaceAll(/"@(.*)@"/g, (_, text) => JSON.parse(`"${text}"`));
}

function show(form) {
  for (const name of FORMS) {
    const tab = $(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === form));
    tab.tabIndex = name === form ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", `tab-${form}`);
  $("code").dataset.form = form;
  $("code").textContent = current[form];
  $("code-hint").textContent = HINTS[form] || `Copy takes the whole reply, ${number(whole.length)} characters.`;
}

/**
 * @param requests [{body, reply: {body, text}}] in the order they were sent
 * @param asked {query, texts, rows}: rows is the most texts of one request
 */
export function showRequests(requests, asked) {
  whole = requests.map(({ reply }) => reply.text).join("\n");
  current = {
    curl: requests.map(curlOf).join("\n\n"),
    python: pythonOf(requests, asked),
    json: requests.map(({ reply }) => readable(reply.body)).join("\n\n"),
  };
  show($("code").dataset.form ?? "curl");
  $("request").hidden = false;
}

/** Into the clipboard; where the page is not a secure context the old way, by selection. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function watchRequests() {
  for (const form of FORMS) $(`tab-${form}`).addEventListener("click", () => show(form));
  $("request").querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = FORMS[(FORMS.indexOf($("code").dataset.form) + step + FORMS.length) % FORMS.length];
    show(next);
    $(`tab-${next}`).focus();
  });
  $("copy").addEventListener("click", async () => {
    const form = $("code").dataset.form;
    let done = "Copied";
    try {
      await copy(form === "json" ? whole : current[form]);
    } catch {
      done = "Not allowed";
    }
    $("copy").textContent = done;
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  });
}
