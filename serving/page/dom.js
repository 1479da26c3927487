// Elements of the page. Data becomes text nodes and attributes, never HTML.

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Make an element. properties: attributes; `class`; functions of events as `onclick`.
 * true stands for an attribute without value; false, null and undefined for none.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Show or hide an element. */
export function show(element, isShown = true) {
  element.hidden = !isShown;
}

/** Show an error as the server words it, with the id that its log has; null: none. */
export function showProblem(error) {
  const box = byId("problem");
  if (error !== null) {
    const id = error.requestId ? make("span", { class: "id" }, error.requestId) : null;
    box.replaceChildren(make("p", {}, error.message), id ?? "");
  }
  show(box, error !== null);
  if (error !== null) box.scrollIntoView({ block: "nearest" });
}

/** Let a screen reader say a short message. */
export function notify(text) {
  byId("notice").textContent = text;
}

/** Let a screen reader say a text that grows, in sentences rather than tokens. */
export class Spoken {
  constructor() {
    this.rest = "";
    byId("growing").replaceChildren();
  }

  push(text) {
    this.rest += text;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => this.rest.lastIndexOf(mark)));
    if (end >= 0) this.say(end + 1);
    else if (this.rest.length > 160) this.say(Math.max(this.rest.lastIndexOf(" "), 0) + 1);
  }

  finish() {
    this.say(this.rest.length);
  }

  say(length) {
    const text = this.rest.slice(0, length).trim();
    this.rest = this.rest.slice(length);
    if (text) byId("growing").append(make("p", {}, text));
  }
}

/** Submit a form by keys, once if they are held. isPressed(event): whether they are pressed. */
export function submitOn(area, form, isPressed) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || isComposing(event) || !isPressed(event)) return;
    event.preventDefault();
    if (!event.repeat) form.requestSubmit();
  });
}

/** Return whether a key goes to an input method. Safari says so by the key's code only. */
function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** Wait for `work()` with a button disabled. Returns what it returns. The button keeps the focus. */
export async function whileDisabled(button, work) {
  const hasFocus = document.activeElement === button;
  button.disabled = true;
  try {
    return await work();
  } finally {
    button.disabled = false;
    if (hasFocus && document.activeElement === document.body) button.focus();
  }
}
