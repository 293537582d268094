import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeIf, Ended, programAvailable, run, temporaryFolder } from "./programs";
import { attribute, parseConfigToml, renderSubject, Table } from "./rendered";
import { SUBJECTS } from "./subjects";

const available = programAvailable("terraform") && programAvailable("gitlab-runner");

describeIf(available).each(SUBJECTS)("the config.toml of $name", (subject) => {
  const folder = temporaryFolder();
  let configs: string[];

  beforeAll(async () => {
    configs = attribute(await renderSubject(subject, folder), "config-toml");
  });

  const lint = (text: string): Promise<Ended> => {
    const file = join(folder, "config.toml");
    writeFileSync(file, text);
    return run(["gitlab-runner", "lint", "--config", file]);
  };

  test("is valid for gitlab-runner", async () => {
    for (const config of configs) {
      const { status, stderr } = await lint(config);
      expect({ status, stderr }).toEqual({
        status: 0,
        stderr: expect.stringContaining("Configuration file is valid") as unknown,
      });
      expect(stderr).not.toMatch(/WARNING/);
    }
  });

  test.each([
    ["concurrent", "concurent"],
    ["IdleTime", "IdelTime"],
    ["ServerAddress", "ServerAdress"],
    ["pull_policy", "pul_policy"],
  ])("is not valid any more with %s misspelt", async (key, misspelt) => {
    for (const config of configs) {
      const broken = config.replace(new RegExp(`^${key} =|(?=^image =)`, "m"), (found) =>
        found === "" ? `${misspelt} = "x"\n` : `${misspelt} =`,
      );
      const { status, stderr } = await lint(broken);
      expect({ status, stderr }).toEqual({
        status: 1,
        stderr: expect.stringMatching(new RegExp(`unknown key.*${misspelt}`, "s")) as unknown,
      });
    }
  });

  test("holds no secret, only references to secrets", () => {
    for (const config of configs) {
      for (const runner of parseConfigToml(config)["runners"] as Table[]) {
        expect(runner["token"]).toMatch(/^secret:\/\/projects\/[^/]+\/secrets\/[^/]+\/versions\/[^/]+$/);
        const { AccessKey, SecretKey } = (runner["cache"] as Table)["s3"] as Table;
        expect([AccessKey, SecretKey]).toEqual([
          expect.stringMatching(/^secret:.*#access_key$/),
          expect.stringMatching(/^secret:.*#secret_key$/),
        ]);
      }
    }
  });
});
