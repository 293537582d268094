import { join } from "node:path";
import { describeIf, isOnPath, temporaryFolder } from "./programs";
import { Configuration, SUBJECTS, synthesize, valuesFor } from "./subjects";
import { parse, providersAvailable, Terraform } from "./terraform";

const CHECK_BLOCK = /^Check block assertion failed: /;

describe.each(["terraform", ...(isOnPath("tofu") ? ["tofu"] : [])])("%s", (program) => {
  const folder = temporaryFolder();

  describeIf(providersAvailable(program)).each(SUBJECTS)("on $name", (subject) => {
    const terraform = new Terraform(join(folder, subject.main, "as-it-is"), program);
    const broken = new Terraform(join(folder, subject.main, "broken"), program);
    let configuration: Configuration;

    beforeAll(async () => {
      configuration = parse(await synthesize(subject.main, join(folder, subject.main, "cdktf.out")));
      terraform.write(configuration);
      await terraform.init();
    });

    test("finds it valid", async () => {
      expect(await terraform.validate()).toEqual({ errors: [], warnings: [] });
    });

    test("plans it", async () => {
      terraform.values(valuesFor(subject, configuration));
      const { errors, warnings } = await terraform.plan();
      expect(errors).toEqual([]);
      expect(warnings.filter((warning) => !CHECK_BLOCK.test(warning))).toEqual([]);
    });

    test("finds a broken copy not valid", async () => {
      const { google_compute_instance: instances } = configuration.resource;
      const [name, { machine_type, ...rest }] = Object.entries(instances)[0];
      broken.write({
        ...configuration,
        resource: {
          ...configuration.resource,
          google_compute_instance: { ...instances, [name]: { ...rest, machine_tipe: machine_type } },
        },
      });
      await broken.init();
      const { errors } = await broken.validate();
      expect(errors.join("\n")).toMatch(/The argument "machine_type" is required/);
      expect(errors.join("\n")).toMatch(/"?machine_tipe"?/);
    });
  });
});

describeIf(providersAvailable())("terraform plan without any variable", () => {
  const folder = temporaryFolder();

  test("asks for the project, GitLab's URL and the token's secret, and for nothing else", async () => {
    const terraform = new Terraform(join(folder, "stack"));
    terraform.write(parse(await synthesize("main.ts", join(folder, "cdktf.out"))));
    await terraform.init();
    const { errors } = await terraform.plan();
    const asked = errors.map((error) => /^No value for required variable: .*input variable "(\w+)"/.exec(error)?.[1]);
    expect(asked.sort()).toEqual(["gitlab_url", "project", "runner_token_secret"]);
  });
});
