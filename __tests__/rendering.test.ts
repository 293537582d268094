import { TerraformStack, Token } from "cdktf";
import { parse as parseToml } from "smol-toml";
import { parse as parseYaml } from "yaml";
import {
  hostFile,
  json,
  numberText,
  renderTemplate,
  stringExpression,
  terraformString,
  toml,
} from "../constructs/rendering";
import { evaluated, resolved, variable } from "./synthesized";

const HOSTILE = [
  "",
  `'single' "double" \`back\``,
  "back\\slash \\n \\u0041",
  "line\nfeed\r\ncarriage\ttab",
  "$HOME $(id) ${a} ${A:-b} $${c} $$ $",
  "%{b} %%{c} %s %%",
  "{{x}} {{{y}}}",
  "# comment: value",
  "- yes: [no, {on: off}]",
  "żółć 😀 \u2028 \u2029 \u0085 \ufeff \u007f",
  "${unbalanced",
];

const token = (stack: TerraformStack) => variable(stack).stringValue;

describe("terraformString", () => {
  test.each(HOSTILE)("Terraform makes of it what it was: %j", (text) => {
    expect(evaluated(resolved(() => terraformString(text)) as string)).toBe(text);
  });

  test("a token between braces stays an expression, and the braces text", () => {
    expect(resolved((stack) => terraformString(`\${A:-${token(stack)}} %{if} \${B ${token(stack)}`))).toBe(
      "$${A:-${var.tuned}} %%{if} $${B ${var.tuned}",
    );
  });
});

describe("stringExpression", () => {
  test("a token alone is the expression", () => {
    expect(resolved((stack) => stringExpression(token(stack)))).toBe("${var.tuned}");
  });

  test("literals beside a token are joined to it, with what HCL would read otherwise escaped", () => {
    expect(resolved((stack) => stringExpression(`a "b" \\ \r\${c}${token(stack)}`))).toBe(
      String.raw`${"$"}{join("", ["a \"b\" \\ \r$", "{c}", var.tuned])}`,
    );
  });
});

describe("json", () => {
  test.each(HOSTILE)("is one printable line that JSON, YAML and TOML read alike: %j", (text) => {
    const line = json(text);
    expect(line).toMatch(/^"[^\n\r\u007f-\u009f\u2028\u2029\ufeff]*"$/);
    expect(JSON.parse(line)).toBe(text);
    expect(parseYaml(`key: ${line}`)).toEqual({ key: text });
    expect(parseToml(`key = ${line}`)).toEqual({ key: text });
  });

  test("lists and objects, without the members that are undefined", () => {
    expect(json({ a: [1, "b", true, null], c: undefined, d: { e: "f" } })).toBe(
      '{"a": [1, "b", true, null], "d": {"e": "f"}}',
    );
  });

  test("a token is encoded by Terraform, alone, in text, in a list and in an object", () => {
    expect(resolved((stack) => json(token(stack)))).toBe("${jsonencode(var.tuned)}");
    expect(resolved((stack) => json(variable(stack).numberValue))).toBe("${jsonencode(var.tuned)}");
    expect(resolved((stack) => json(variable(stack).listValue))).toBe("${jsonencode(var.tuned)}");
    expect(resolved((stack) => json({ a: [`x-${token(stack)}`, 1] }))).toBe(
      '{"a": [${jsonencode(join("", ["x-", var.tuned]))}, 1]}',
    );
  });
});

describe("numberText", () => {
  test("a literal is its digits", () => expect(numberText(6000)).toBe("6000"));

  test("a token is its expression, not the number that stands for it", () => {
    expect(resolved((stack) => json(`port ${numberText(variable(stack).numberValue)}`))).toBe(
      '${jsonencode(join("", ["port ", var.tuned]))}',
    );
  });
});

describe("toml", () => {
  test("whole numbers are integers, but for the keys that GitLab Runner reads as floating point", () => {
    expect(toml({ limit: 1, IdleScaleFactor: 1, nested: { IdleScaleFactor: 0.5, scale_factor: 2 } })).toBe(
      "limit = 1\nIdleScaleFactor = 1.0\n\n[nested]\nIdleScaleFactor = 0.5\nscale_factor = 2.0\n",
    );
  });

  test("what is undefined is not written", () => {
    expect(toml({ a: undefined, b: { c: undefined, d: [] } })).toBe("[b]\nd = []\n");
  });

  test.each(HOSTILE)("a literal comes out as it went in: %j", (text) => {
    expect(parseToml(toml({ a: text, b: { [text]: [text] } }))).toEqual({ a: text, b: { [text]: [text] } });
  });

  test("tokens of every type are expressions without quotes around them", () => {
    expect(
      resolved((stack) =>
        toml({
          text: `a ${token(stack)}`,
          number: variable(stack, "number").numberValue,
          flag: variable(stack, "flag").booleanValue,
          list: variable(stack, "list").listValue,
          items: ["a", variable(stack, "item").stringValue],
          IdleScaleFactor: variable(stack, "factor").numberValue,
          map: Token.asStringMap(variable(stack, "map").value),
          tmpfs: variable(stack, "tmpfs").value as unknown,
          feature_flags: Token.asAnyMap(variable(stack, "flags").value),
        }),
      ),
    ).toBe(
      [
        'text = ${jsonencode(join("", ["a ", var.tuned]))}',
        "number = ${jsonencode(var.number)}",
        "flag = ${jsonencode(var.flag)}",
        "list = ${jsonencode(var.list)}",
        'items = [ "a", ${jsonencode(var.item)} ]',
        'IdleScaleFactor = ${format("%f", var.factor)}',
        'map = {${join(", ", formatlist("%q = %q", keys(var.map), values(var.map)))}}',
        'tmpfs = {${join(", ", formatlist("%q = %q", keys(var.tmpfs), values(var.tmpfs)))}}',
        'feature_flags = {${join(", ", formatlist("%q = %v", keys(var.flags), values(var.flags)))}}',
        "",
      ].join("\n"),
    );
  });

  test("one token in two places is an expression in both", () => {
    expect(
      resolved((stack) => {
        const value = token(stack);
        return toml({ a: value, b: value });
      }),
    ).toBe("a = ${jsonencode(var.tuned)}\nb = ${jsonencode(var.tuned)}\n");
  });
});

describe("renderTemplate", () => {
  const values = {
    registryImage: "registry:3",
    registryPorts: "6000:5000",
    registryMetricsPorts: "9253:5001",
    registryUpstream: "https://registry.example",
    registryTtl: "24h",
    dockerHub: undefined as object | undefined,
    buildCacheImage: "s3:1",
    buildCachePorts: "9005:9000",
    bucket: "runner",
    buildCacheEnvironment: { KEY: "value" },
    buildCacheCommand: ["serve", "/export"],
    buildCacheVolumes: ["/srv/cache/export:/export"],
  };
  const compose = (changed: object) =>
    (parseYaml(renderTemplate("compose.yaml.hbs", { ...values, ...changed })) as { services: unknown }).services;

  test("a value that is missing is an error, not an empty string", () => {
    const { registryImage: _, ...incomplete } = values;
    expect(() => renderTemplate("compose.yaml.hbs", incomplete)).toThrow(
      "a value that a template of cloud-init/ names is missing",
    );
  });

  test("Docker Compose is given $ as $$", () => {
    expect(compose({ registryTtl: "$HOME ${a} $$" })).toMatchObject({
      "registry-mirror": { environment: { REGISTRY_PROXY_TTL: "$$HOME $${a} $$$$" } },
    });
    expect(resolved((stack) => renderTemplate("compose.yaml.hbs", { ...values, registryTtl: token(stack) }))).toContain(
      'REGISTRY_PROXY_TTL: ${jsonencode(replace(var.tuned, "$", "$$"))}\n',
    );
  });

  test("a Docker Hub login is written only when there is one", () => {
    expect(JSON.stringify(compose({}))).not.toContain("REGISTRY_PROXY_USERNAME");
    expect(compose({ dockerHub: { username: "me", password: "secret://x" } })).toMatchObject({
      "registry-mirror": { environment: { REGISTRY_PROXY_USERNAME: "me", REGISTRY_PROXY_PASSWORD: "secret://x" } },
    });
  });

  test.each(["cache-host.yaml.hbs", "runner-host.yaml.hbs"])("%s puts every file on the host as it is", (template) => {
    const { write_files: files } = parseYaml(renderTemplate(template, { settings: {} })) as {
      write_files: { path: string; content: string }[];
    };
    const sources = [...hostFile(template).matchAll(/\{\{file "([^"]+)"/g)].map(([, source]) => source);
    expect(sources.length).toBeGreaterThan(3);
    expect(files.slice(1).map(({ content }) => content)).toEqual(sources.map(hostFile));
  });

  test.each(["cache-host.yaml.hbs", "runner-host.yaml.hbs"])("%s carries its settings as JSON", (template) => {
    const settings = { text: HOSTILE.join("\n"), list: HOSTILE };
    const text = renderTemplate(template, { settings });
    expect(text).toMatch(/^#cloud-config\n/);
    const [{ path, content }] = (parseYaml(text) as { write_files: { path: string; content: string }[] }).write_files;
    expect(path).toBe("/etc/gitlab-runner-gce/settings.json");
    expect(JSON.parse(content)).toEqual(settings);
  });
});
