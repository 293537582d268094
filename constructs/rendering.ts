import * as fs from "fs";
import * as path from "path";
import { Fn, IResolvable, Lazy, Token } from "cdktf";
import Handlebars from "handlebars";
import { stringify } from "smol-toml";

/**
 * The one way in for values. Whatever becomes part of a file on a host passes through here: TypeScript → Handlebars →
 * YAML or TOML → Terraform string → VM. A literal is encoded at synth time, a Terraform token at apply time.
 */

/** Where this package keeps its templates and the files that it puts on hosts. */
const TEMPLATES = path.join(__dirname, "..", "cloud-init");

const TOKEN = /(\$\{TfToken\[[a-zA-Z0-9:._-]+\]\})/;

/**
 * Makes a Terraform string that evaluates to exactly this text, whatever it looks like; tokens in it stay tokens.
 * Call it once, last, on the whole text, and never hand its result to a `Fn`.
 */
export function terraformString(text: string): string {
  return text
    .split(TOKEN)
    .map((part) => (TOKEN.test(part) ? part : literalTemplate(part)))
    .join("");
}

function literalTemplate(literal: string): string {
  // A callback: "$$" in a replacement string would be one "$".
  const escaped = literal.replaceAll("%{", "%%{").replaceAll("${", () => "$${");
  // As a token: else cdktf would take what is in these braces for an expression, and drop those of the next token.
  return escaped.includes("${") ? Lazy.stringValue({ produce: () => escaped }) : escaped;
}

/** An expression, to be used inside `Fn`, that evaluates to this text, in which literals and tokens are mixed. */
export function stringExpression(text: string): string {
  const parts = text
    .split(TOKEN)
    .filter((part) => part !== "")
    .flatMap((part) => (TOKEN.test(part) ? [part] : literalExpressions(part)));
  if (parts.length === 1) {
    return parts[0];
  }
  return Fn.join("", parts);
}

function literalExpressions(literal: string): string[] {
  return (
    literal
      // Cut between "$" and "{": joined by Terraform it needs no escape that cdktf might see and double.
      .split(/(?<=[$%])(?=\{)/)
      // `rawString` leaves backslashes and carriage returns alone. It takes a stack trace, so only where it is needed.
      .map((part) => (/["\\\r\n]/.test(part) ? Fn.rawString(part.replace(/\\/g, "\\\\").replace(/\r/g, "\\r")) : part))
  );
}

// Valid in JSON, yet a line break or not printable in YAML 1.1 or TOML.
const NOT_PRINTABLE = /[\u007f-\u009f\u2028\u2029\ufeff]/g;

/** The value as one line of JSON, which is valid in YAML and, for strings, numbers, booleans and lists, in TOML. */
export function json(value: unknown): string {
  if (typeof value === "string" && Token.isUnresolved(value)) {
    return Fn.jsonencode(stringExpression(value));
  }
  if (Token.isUnresolved(value)) {
    return Fn.jsonencode(value);
  }
  if (Array.isArray(value)) {
    return `[${value.map(json).join(", ")}]`;
  }
  if (value !== null && typeof value === "object") {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${members.map(([key, member]) => `${json(key)}: ${json(member)}`).join(", ")}}`;
  }
  if (value === undefined) {
    throw new Error("a value that a template of cloud-init/ names is missing");
  }
  return JSON.stringify(value).replace(NOT_PRINTABLE, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A number as text. A number token is a number that stands for something: only as a string does it become an expression. */
export function numberText(value: number): string {
  return Token.isUnresolved(value) ? Token.asString(value) : String(value);
}

/** Keys that GitLab Runner reads as floating point: it refuses to start on `IdleScaleFactor = 1`. */
const FLOATS = new Set(["IdleScaleFactor", "scale_factor"]);

/** Keys whose value is a map. A Terraform value does not tell by itself, and a map in JSON is none in TOML. */
const MAPS = new Set(
  "ulimit sysctls volume_driver_ops tmpfs services_tmpfs container_labels log_options labels feature_flags".split(" "),
);

/** The document as TOML; tokens may be strings, numbers, booleans, lists and maps of these. */
export function toml(document: object): string {
  const expressions: string[] = [];
  const expression = (text: string) => {
    expressions.push(text);
    return text;
  };
  const plain = (value: unknown, key: string): unknown => {
    if (isTokenMap(value) || (MAPS.has(key) && Token.isUnresolved(value))) {
      return expression(tomlInlineTable(value, key === "feature_flags" ? "%v" : "%q"));
    }
    if (Token.isUnresolved(value)) {
      return expression(FLOATS.has(key) ? Token.asString(Fn.format("%f", [value])) : json(value));
    }
    if (typeof value === "number" && !FLOATS.has(key) && Number.isInteger(value)) {
      return BigInt(value);
    }
    if (Array.isArray(value)) {
      return value.map((item) => plain(item, key));
    }
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value)
          .filter(([, member]) => member !== undefined)
          .map(([k, member]) => [k, plain(member, k)]),
      );
    }
    return value;
  };
  let text = stringify(plain(document, ""), { numbersAsFloat: true });
  for (const token of expressions) {
    // An expression yields its own quotes.
    text = text.replace(`"${token}"`, () => token);
  }
  return text;
}

function isTokenMap(value: unknown): value is IResolvable {
  return (
    value !== null &&
    typeof value === "object" &&
    !Array.isArray(value) &&
    Object.keys(value).some((key) => key.startsWith("&{TfToken["))
  );
}

function tomlInlineTable(map: unknown, format: string): string {
  return `{${Fn.join(", ", Token.asList(Fn.formatlist(`%q = ${format}`, [Fn.keys(map), Fn.values(map)])))}}`;
}

const templates = new Map<string, HandlebarsTemplateDelegate>();

/**
 * A template of `cloud-init/` with its values put in. In the template `{{json value}}` is the one way for a value,
 * `{{json (text value)}}` for a file that is JSON itself; `{{file "name" indent}}` puts a file in as it is, for a YAML block.
 */
export function renderTemplate(name: string, values: object): string {
  let template = templates.get(name);
  if (template === undefined) {
    template = handlebars.compile(hostFile(name), {
      noEscape: true,
      strict: true,
      knownHelpersOnly: true,
      knownHelpers,
    });
    templates.set(name, template);
  }
  return template(values);
}

const hostFiles = new Map<string, string>();

/** A file of `cloud-init/`, as it is. */
export function hostFile(name: string): string {
  const text = hostFiles.get(name) ?? fs.readFileSync(path.join(TEMPLATES, name), "utf8");
  hostFiles.set(name, text);
  return text;
}

const knownHelpers = { json: true, text: true, file: true, compose: true };
const handlebars = Handlebars.create();
handlebars.registerHelper("json", json);
handlebars.registerHelper("text", (value: unknown) => `${json(value)}\n`);
handlebars.registerHelper("compose", (value: unknown) => json(composeLiteral(value)));
handlebars.registerHelper("file", (name: string, indent: number) =>
  hostFile(name)
    .trimEnd()
    .split("\n")
    .map((line, number) => (number === 0 || line === "" ? line : " ".repeat(indent) + line))
    .join("\n"),
);

/** Docker Compose replaces `$NAME` in every string; `$$` is a dollar. */
function composeLiteral(value: unknown): unknown {
  if (typeof value !== "string") {
    return value;
  }
  return Token.isUnresolved(value) ? Fn.replace(stringExpression(value), "$", "$$") : value.replace(/\$/g, () => "$$");
}
