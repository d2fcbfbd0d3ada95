/** The operator's strip: what /ready and /metrics say, asked for gently and only while somebody looks. */

import { metrics, readiness } from "./api.js";
import { $, compact, number } from "./dom.js";

const EVERY = 5_000;
const MEBI = 2 ** 20;

let timer;

function put(name, value, title = "") {
  const cell = $(`stat-${name}`);
  cell.querySelector("dd").textContent = value;
  cell.title = title;
}

/** The sum of a metric's samples, or undefined where the server has no such metric. */
function total(samples, name, keep = () => true) {
  const kept = samples.filter((sample) => sample.name === name && keep(sample.labels));
  if (!samples.some((sample) => sample.name === name)) return undefined;
  return kept.reduce((sum, { value }) => sum + value, 0);
}

export async function refreshStrip() {
  try {
    const [state, samples] = await Promise.all([readiness(), metrics()]);
    const ready = state.status === "ready";
    $("stat-ready").className = ready ? "good" : "bad";
    put("ready", state.status, state.reason ?? "a forward pass worked in the last seconds");
    if (state.backbone) put("backbone", state.backbone, "what computes the vectors");
    showCounters(samples);
  } catch (error) {
    $("stat-ready").className = "bad";
    put("ready", "unreachable", error.message);
  }
}

function showCounters(samples) {
  const embeddings = (labels) => labels.route?.endsWith(".create_embeddings");
  const requests = total(samples, "embedserve_requests_total", embeddings);
  const answered = (labels) => embeddings(labels) && labels.status === "200";
  const good = total(samples, "embedserve_requests_total", answered);
  if (requests !== undefined) {
    const refused = number(requests - good);
    put("requests", compact(requests), `embedding requests since the start; ${refused} of them refused`);
  }
  const tokens = total(samples, "embedserve_billed_tokens_total");
  if (tokens !== undefined) put("tokens", compact(tokens), `${number(tokens)} tokens in the ledger`);
  const waiting = total(samples, "embedserve_queue_requests");
  const queued = total(samples, "embedserve_queue_tokens");
  if (waiting !== undefined) {
    put("queue", compact(waiting), `requests in the engine's queue, ${number(queued ?? 0)} tokens`);
  }
  const held = total(samples, "embedserve_memory_held_bytes");
  const limit = total(samples, "embedserve_memory_limit_bytes");
  if (held !== undefined && limit) {
    const room = `${(held / MEBI).toFixed(1)} of ${number(Math.round(limit / MEBI))} MiB`;
    put("memory", `${Math.round((100 * held) / limit)}%`, `${room} for accepted work`);
  }
}

/** @param card of GET /models/{id}: its `embedserve` part */
export function showRecipe(card) {
  const recipe = card.recipe ?? {};
  const facts = Object.entries(recipe).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`);
  put("recipe", recipe.name ?? "–", facts.join("\n"));
  put("backbone", card.backbone, `${card.native_dimension} dimensions of its own`);
}

function wake() {
  clearInterval(timer);
  if (document.hidden) return;
  refreshStrip();
  timer = setInterval(refreshStrip, EVERY);
}

export function watchServer() {
  document.addEventListener("visibilitychange", wake);
  wake();
}
