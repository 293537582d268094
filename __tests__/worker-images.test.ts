import { runInNewContext } from "node:vm";
import { HOST_IMAGE, WORKER_IMAGE } from "../constructs/versions";
import { diskFitsImage, isEndOfLife, minimumDiskGb } from "../constructs/worker-images";

const family = (project: string, name: string) => `projects/${project}/global/images/family/${name}`;

describe("a family that gets no security updates any more", () => {
  test.each([
    family("ubuntu-os-cloud", "ubuntu-1604-lts"),
    family("ubuntu-os-cloud", "ubuntu-2004-lts"),
    family("ubuntu-os-cloud", "ubuntu-minimal-1804-lts"),
    family("ubuntu-os-cloud", "ubuntu-2304-amd64"),
    family("ubuntu-os-cloud", "ubuntu-2410-amd64"),
    "ubuntu-os-cloud/global/images/ubuntu-1604-xenial-v20210429",
    family("debian-cloud", "debian-9"),
    family("debian-cloud", "debian-10"),
    family("coreos-cloud", "coreos-stable"),
    family("centos-cloud", "centos-7"),
    family("cos-cloud", "cos-101-lts"),
  ])("%s", (image) => expect(isEndOfLife(image)).toBe(true));
});

describe("a family that is kept up", () => {
  test.each([
    WORKER_IMAGE,
    HOST_IMAGE,
    family("ubuntu-os-cloud", "ubuntu-2204-lts"),
    family("ubuntu-os-cloud", "ubuntu-minimal-2404-lts-amd64"),
    family("ubuntu-os-cloud", "ubuntu-2604-lts-amd64"),
    family("debian-cloud", "debian-12"),
    family("debian-cloud", "debian-13"),
    family("my-project", "ci-workers"),
  ])("%s", (image) => expect(isEndOfLife(image)).toBe(false));
});

test.each([
  [WORKER_IMAGE, 10],
  [family("ubuntu-os-cloud", "ubuntu-2404-lts-amd64"), 10],
  [family("rocky-linux-cloud", "rocky-linux-9"), 20],
  [family("rhel-cloud", "rhel-9"), 20],
  [family("windows-cloud", "windows-2022"), 50],
  [family("my-project", "ci-workers"), 10],
])("%s needs %d GB, as a literal and as a variable", (image, gb) => {
  expect(minimumDiskGb(image)).toBe(gb);
  const fits = (diskGb: number) =>
    runInNewContext(diskFitsImage("diskGb", "image"), {
      diskGb,
      image,
      can: (value: boolean) => value,
      regex: (pattern: string, text: string) => new RegExp(pattern).test(text),
      basename: (path: string) => path.slice(path.lastIndexOf("/") + 1),
    }) as boolean;
  expect([gb - 1, gb].map(fits)).toEqual([false, true]);
});
