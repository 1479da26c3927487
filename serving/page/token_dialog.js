// The dialog that asks the user for the server's token.

import { keepToken } from "/page/api.js";
import { make } from "/page/dom.js";

/** The characters that tokens consist of: any other can't stand in a header, or isn't seen. */
const TOKEN = /^[\x21-\x7e]+$/;

let asked = null;

/**
 * Ask for a token. message: why. Resolves to whether the user gave one. Requests that need it at the
 * same time share one dialog.
 */
export function askForToken(message) {
  asked ??= ask(message).finally(() => (asked = null));
  return asked;
}

async function ask(message) {
  const problem = make("p", { id: "token-problem", class: "muted", role: "alert" }, message);
  const input = make("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false" });
  const dialog = make(
    "dialog",
    { id: "token-dialog", "aria-labelledby": "token-title", "aria-describedby": "token-problem" },
  );
  let isGiven = false;
  const take = (event) => {
    event.preventDefault();
    const value = input.value.trim();
    if (!TOKEN.test(value)) {
      problem.textContent = "a token consists of printable ASCII characters without spaces";
      input.focus();
      return;
    }
    keepToken(value);
    isGiven = true;
    dialog.close();
  };
  dialog.append(
    make(
      "form",
      { novalidate: true, onsubmit: take },
      make("h2", { id: "token-title" }, "A token is needed"),
      problem,
      make("label", { for: "token" }, "Token"),
      input,
      make("p", { class: "muted" }, "It is kept until this tab is closed, and is sent to this server only."),
      make(
        "div",
        { class: "actions" },
        make("button", { class: "main", type: "submit" }, "Use it"),
        make("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      ),
    ),
  );
  document.body.append(dialog);
  const isClosed = new Promise((resolve) => dialog.addEventListener("close", resolve));
  dialog.showModal();
  input.focus();
  await isClosed;
  dialog.remove();
  return isGiven;
}
