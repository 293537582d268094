import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeIf, Ended, programAvailable, run, temporaryFolder } from "./programs";
import { attribute, Metadata, parseSettings, parseUserData, renderSubject } from "./rendered";
import { SUBJECTS } from "./subjects";

/** https://cloud.google.com/compute/docs/metadata/setting-custom-metadata#limitations */
const MAXIMUM_OF_ONE_VALUE = 262_144;
const MAXIMUM_OF_ALL = 512 * 1024;

describeIf(programAvailable("terraform")).each(SUBJECTS)("the user-data of the hosts of $name", (subject) => {
  const folder = temporaryFolder();
  let hosts: Metadata[];
  let userData: string[];

  beforeAll(async () => {
    hosts = await renderSubject(subject, folder);
    userData = attribute(hosts, "user-data");
  });

  const schema = (text: string): Promise<Ended> => {
    const file = join(folder, "user-data.yaml");
    writeFileSync(file, text);
    return run(["cloud-init", "schema", "--config-file", file]);
  };

  test("is of two hosts, or of two for each of two teams", () => {
    expect([2, 4]).toContain(userData.length);
  });

  test("begins as cloud-init wants it", () => {
    expect(userData.map((text) => text.split("\n")[0])).toEqual(userData.map(() => "#cloud-config"));
  });

  test("has its settings as JSON", () => {
    expect(userData.map((text) => parseSettings(parseUserData(text)))).toEqual(
      userData.map(() => expect.objectContaining({ docker: expect.anything() as unknown }) as unknown),
    );
  });

  test("fits into a VM's metadata", () => {
    for (const host of hosts) {
      const sizes = Object.entries(host).map(
        ([key, value]) => Buffer.byteLength(key) + Buffer.byteLength(String(value)),
      );
      expect(Math.max(...sizes)).toBeLessThan(MAXIMUM_OF_ONE_VALUE);
      expect(sizes.reduce((sum, size) => sum + size)).toBeLessThan(MAXIMUM_OF_ALL);
    }
  });

  describeIf(programAvailable("cloud-init"))("read by cloud-init", () => {
    test("is a valid cloud-config", async () => {
      for (const text of userData) {
        expect(await schema(text)).toMatchObject({ status: 0, stdout: expect.stringMatching(/^Valid /) as unknown });
      }
    });

    test.each([
      ["a key that is wrong", /^ {2}- path: .*$/m, "  - pfad: /x"],
      ["a value of another type", /^runcmd:\n.*$/m, "runcmd: 7"],
      ["a first line that is another", /^#cloud-config$/m, "#cloud-konfig"],
    ])("is not valid any more with %s", async (_, pattern, replacement) => {
      for (const text of userData) {
        const broken = text.replace(pattern, replacement);
        expect(broken).not.toBe(text);
        expect(await schema(broken)).toMatchObject({ status: 1 });
      }
    });
  });
});
