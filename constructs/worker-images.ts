/** What Google's public image families need and whether they still get updates; the key begins the family's name. */
const FAMILIES: { readonly prefix: RegExp; readonly diskGb?: number; readonly endOfLife?: boolean }[] = [
  // https://ubuntu.com/about/release-cycle
  { prefix: /^ubuntu-(minimal-)?((1[0-9]|20|2[13579])[0-9]{2}|2[2468]10)-/, endOfLife: true },
  // https://wiki.debian.org/LTS
  { prefix: /^debian-([0-9]|10|11)(-|$)/, endOfLife: true },
  { prefix: /^(coreos|fedora-coreos|centos-(6|7|8|stream-8))/, endOfLife: true, diskGb: 20 },
  // https://cloud.google.com/container-optimized-os/docs/release-notes
  { prefix: /^cos-([0-9]{2}|10[0-9]|11[0-9])-lts/, endOfLife: true },
  { prefix: /^(rhel|rocky|centos|almalinux|oracle)/, diskGb: 20 },
  { prefix: /^windows/, diskGb: 50 },
];

const familyOf = (image: string) => image.slice(image.lastIndexOf("/") + 1);

export function isEndOfLife(image: string): boolean {
  return FAMILIES.some(({ prefix, endOfLife }) => endOfLife === true && prefix.test(familyOf(image)));
}

/** Smallest disk that the image fits on, in GB. */
export function minimumDiskGb(image: string): number {
  return FAMILIES.find(({ prefix, diskGb }) => diskGb !== undefined && prefix.test(familyOf(image)))?.diskGb ?? 10;
}

/** The same as a Terraform expression that compares a disk's size with what an image needs. */
export function diskFitsImage(diskGb: string, image: string): string {
  const minimum = FAMILIES.filter((family) => family.diskGb !== undefined).reduceRight(
    (otherwise, { prefix, diskGb }) =>
      `can(regex(${JSON.stringify(prefix.source)}, basename(${image}))) ? ${diskGb} : ${otherwise}`,
    "10",
  );
  return `${diskGb} >= (${minimum})`;
}
