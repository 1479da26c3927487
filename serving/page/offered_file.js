// Files of the server that need its token, if it has one.

import { send, token } from "/page/api.js";
import { make, show, showProblem } from "/page/dom.js";

/** Offer the file of a link. A link can't carry a token: with one, a button saves the file as `name`. */
export function offerFile(link, button, name) {
  show(link, !token());
  show(button, Boolean(token()));
  button.addEventListener("click", () => save(link.href, name));
}

async function save(path, name) {
  try {
    const address = URL.createObjectURL(await (await send(path)).blob());
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    showProblem(error);
  }
}
