/** The little of the DOM that the views share. */

export const $ = (id) => document.getElementById(id);

/** An element: `make("p", {class: "hint", title: "…"}, "text", child)`. Text is only ever text, never markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Sets custom properties; the policy forbids style attributes, not this. */
export function paint(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(`--${name}`, value);
  return element;
}

export const number = (value) => value.toLocaleString("en");

export function compact(value) {
  if (value < 10_000) return number(value);
  return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}

/** A time as a reader wants it. */
export const duration = (milliseconds) =>
  milliseconds < 1_000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1_000).toFixed(2)} s`;

export const score = (value) => value.toFixed(4);
