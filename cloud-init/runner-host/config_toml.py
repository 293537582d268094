"""What config.toml says of its runners. Before 3.11 Python knows no TOML."""
import json
import re


def read_runners(lines):
    """Of each [[runners]] its values; AccessKey in [runners.cache.s3] is "cache.s3.AccessKey".

    One key a line, strings as in JSON: so do Terraform and GitLab Runner write it. A value that is written otherwise is left out.
    """
    runners, prefix = [], None
    for line in lines:
        table = re.fullmatch(r"\[+([^\[\]]+)\]+", line.strip())
        key = re.match(r"\s*([\w-]+)\s*=\s*(.*)", line)
        if table:
            name, _, below = table[1].strip().partition(".")
            if name == "runners" and not below:
                runners.append({})
            prefix = None if name != "runners" or not runners else f"{below}." if below else ""
        elif key and prefix is not None:
            try:
                runners[-1].setdefault(prefix + key[1], json.loads(key[2]))
            except ValueError:
                pass
    return runners
