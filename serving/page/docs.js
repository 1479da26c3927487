// The description of the API for readers, made of /openapi.json.

import { onTokenNeeded, sendForJson } from "/page/api.js";
import { byId, make, showProblem } from "/page/dom.js";
import { offerFile } from "/page/offered_file.js";
import { askForToken } from "/page/token_dialog.js";

const MOST_LEVELS = 3;

/** The words of JSON schemas for bounds, and how they are told. */
const BOUNDS = {
  minimum: (value) => `at least ${value}`,
  exclusiveMinimum: (value) => `above ${value}`,
  maximum: (value) => `at most ${value}`,
  exclusiveMaximum: (value) => `below ${value}`,
  minLength: (value) => `at least ${value} characters`,
  maxLength: (value) => `at most ${value} characters`,
  minItems: (value) => `at least ${value} items`,
  maxItems: (value) => `at most ${value} items`,
};

class Reference {
  constructor(description) {
    this.description = description;
  }

  render() {
    const routes = Object.entries(this.description.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
    );
    routes.sort((one, other) => (one.method === "get") - (other.method === "get"));
    byId("title").textContent = `API of ${this.description.info.title}`;
    byId("contents").replaceChildren(
      ...routes.map(({ path, operation }) =>
        make("li", {}, make("a", { href: `#${operation.operationId}` }, path)),
      ),
    );
    byId("routes").replaceChildren(...routes.map((route) => this.route(route)));
  }

  route({ path, method, operation }) {
    const title = `${operation.operationId}-title`;
    const heading = make(
      "h2",
      { id: title },
      make("span", { class: "method" }, method.toUpperCase()),
      make("code", {}, path),
    );
    const access = operation.security?.length ? "Needs the token, if the server has one." : "Open to everybody.";
    return make(
      "section",
      { id: operation.operationId, "aria-labelledby": title },
      heading,
      make("p", {}, ...prose(operation.summary), " ", make("span", { class: "muted" }, access)),
      ...this.body(operation.requestBody),
      ...this.answers(operation.responses),
    );
  }

  body(body) {
    return Object.entries(body?.content ?? {}).flatMap(([type, { schema }]) =>
      this.tables(schema, `Body, ${type}`),
    );
  }

  answers(responses) {
    const success = Object.entries(responses["200"]?.content ?? {});
    const types = success.map(([type]) => type).join(" or ");
    const tables = success.flatMap(([, { schema }]) => (schema ? this.tables(schema, "Answer") : []));
    const others = Object.entries(responses)
      .filter(([status]) => status !== "200")
      .map(([status, response]) => [status, this.resolved(response).description]);
    return [
      make("p", { class: "muted" }, `Answers with ${types || "nothing"}.`),
      ...tables.map((table) => make("details", {}, make("summary", {}, "Fields of the answer"), table)),
      make(
        "details",
        {},
        make("summary", {}, "Other statuses"),
        table("Statuses", ["Status", "Meaning"], others),
      ),
    ];
  }

  /** Return a table of the fields of a schema; those of objects in it follow below their names. */
  tables(schema, caption) {
    const fields = this.fields(schema, "", 0);
    return fields.length ? [table(caption, ["Field", "Type", "Meaning"], fields)] : [];
  }

  fields(schema, prefix, level) {
    const resolved = this.resolved(schema);
    const required = new Set(resolved.required ?? []);
    const properties = Object.entries(resolved.properties ?? {});
    properties.sort(([one], [other]) => required.has(other) - required.has(one));
    return properties.flatMap(([name, field]) => {
      const isGiven = field.default !== undefined && field.default !== null;
      const values = [
        ...(isGiven ? [`default ${JSON.stringify(field.default)}`] : []),
        ...this.bounds(field),
      ];
      const sentences = [
        required.has(name) ? "required" : "",
        this.resolved(field).description?.split("\n\n")[0] ?? "",
        [...new Set(values)].join(", "),
      ];
      const meaning = sentences.filter(Boolean).map(sentence).join(" ");
      const row = [prefix + name, this.type(field), meaning];
      return [row, ...(level < MOST_LEVELS ? this.inner(field, prefix + name, level + 1) : [])];
    });
  }

  inner(field, name, level) {
    return this.choices(field).flatMap((choice) => {
      const one = this.resolved(choice);
      if (typesOf(one).includes("array")) return this.fields(one.items ?? {}, `${name}[].`, level);
      return this.fields(one, `${name}.`, level);
    });
  }

  bounds(field) {
    return this.choices(field).flatMap((choice) => {
      const one = this.resolved(choice);
      return Object.keys(BOUNDS)
        .filter((word) => word in one && !(Math.abs(one[word]) > Number.MAX_SAFE_INTEGER))
        .map((word) => BOUNDS[word](one[word]));
    });
  }

  type(field) {
    const names = this.choices(field).flatMap((choice) => {
      const one = this.resolved(choice);
      if (one.enum) return one.enum.map((value) => JSON.stringify(value)).join(" | ");
      if ("const" in one) return JSON.stringify(one.const);
      if (one.format === "binary") return "file";
      return typesOf(one).map((type) => {
        if (type === "array") return `list of ${one.items ? this.type(one.items) : "anything"}`;
        return type ?? "anything";
      });
    });
    return [...new Set(names)].filter((name) => name !== "null").join(" | ") || "null";
  }

  choices(field) {
    const one = this.resolved(field);
    return one.anyOf ?? one.oneOf ?? [one];
  }

  /** Return a part of the description, or, of a reference, the part that it refers to. */
  resolved(part) {
    if (part.$ref === undefined) return part;
    const names = part.$ref.split("/").slice(1);
    return names.reduce((found, name) => found?.[name], this.description) ?? {};
  }
}

/** Return the types that a schema allows besides null; [undefined] if it names none. */
function typesOf(schema) {
  return [schema.type].flat().filter((type) => type !== "null");
}

/** Return a text that begins with a capital letter and ends with a mark. */
function sentence(text) {
  const mark = /[.!?]$/.test(text) ? "" : ".";
  return text[0].toUpperCase() + text.slice(1) + mark;
}

/** Return the nodes of a text in which backticks enclose code. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function table(caption, heads, rows) {
  const body = rows.map(([first, ...rest]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, first),
      ...rest.map((text) => make("td", {}, ...prose(text))),
    ),
  );
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    make(
      "table",
      {},
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...body),
    ),
  );
}

byId("base").textContent = `${location.origin}/v1`;
onTokenNeeded(askForToken);
try {
  new Reference(await sendForJson("/openapi.json")).render();
  offerFile(byId("openapi-link"), byId("openapi-save"), "openapi.json");
} catch (error) {
  showProblem(error);
}
