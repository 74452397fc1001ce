"""Checks docs/rfc-compliance.md: every requirement has a row, every row a verdict, every test named exists."""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, 'docs', 'rfc-compliance.md')

# What each RFC numbers.
REQUIREMENTS = {
    '4787': '1 2 3 3a 4 5 5a 5b 5c 6 6a 7 8 8a 9 9a 10 10a 11 12 12a 12b 13 13a 14 14a',
    '5382': '1 2 2a 3 3a 3b 4 4a 5 5a 6 7 8 8a 9 10',
    '5508': '1 1a 2 2a 3 3a 3b 3c 3d 4 4a 4b 4c 5 5a 5b 5c 6 7 7a 8 9 10 10a 10b 10c 10d 10e 10f 11',
    '6888': '1 2 3 4 4a 4b 4c 5 5a 5b 6 7 8 8a 8b 8c 9 10 11 11a 11b 11c 11d 12 13 14 15',
    '7857': '2 2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12',
}


def e2e_names():
    """The end-to-end tests: their names, also without the number of workers, and without the row."""
    listed = subprocess.run([sys.executable, os.path.join(ROOT, 'tests', 'e2e'), '--list'], text=True,
                            capture_output=True, check=True).stdout
    names = {line.split()[0] for line in listed.splitlines()}
    names |= {re.sub(r'/\d+$', '', n) for n in names}
    return names | {re.sub(r'\[.*\]$', '', n) for n in names}


def exists(name, e2e):
    """Whether there is such a test."""
    path, _, function = name.partition('::')
    if not function:
        return name in e2e
    try:
        with open(os.path.join(ROOT, path)) as f:
            return re.search(r'#\[test\]\s+fn %s\(' % re.escape(function), f.read()) is not None
    except FileNotFoundError:
        return False


def faults(text, e2e):
    """What is wrong with the page."""
    sections = dict(re.findall(r'^## RFC (\d+).*?$(.*?)(?=^## |\Z)', text, re.M | re.S))
    for rfc, wanted in REQUIREMENTS.items():
        rows = [[c.strip() for c in line.strip().strip('|').split('|')]
                for line in sections.get(rfc, '').splitlines() if re.match(r'\| \d', line)]
        numbers = [r[0] for r in rows]
        for n in wanted.split():
            if numbers.count(n) != 1:
                yield 'RFC %s REQ-%s has %d rows' % (rfc, n, numbers.count(n))
        yield from ('RFC %s has no REQ-%s' % (rfc, n) for n in numbers if n not in wanted.split())
        for n, row in zip(numbers, rows):
            where = 'RFC %s REQ-%s: ' % (rfc, n)
            if len(row) != 6:
                yield where + '%d columns' % len(row)
                continue
            verdict, why, tests = row[3], row[4], re.findall(r'`([^`]+)`', row[5])
            if verdict not in ('met', 'by option', 'not'):
                yield where + 'what is `%s`?' % verdict
            if verdict != 'met' and not why:
                yield where + 'no option or reason'
            if bool(tests) == (verdict == 'not'):
                yield where + ('a test of what is not met' if tests else 'no test')
            yield from (where + 'there is no test ' + t for t in tests if not exists(t, e2e))


def main():
    """Prints the faults, and how many."""
    with open(PAGE) as f:
        found = list(faults(f.read(), e2e_names()))
    for fault in found:
        print('docs/rfc-compliance.md: ' + fault)
    print('%d passed, %d failed' % (0 if found else 1, len(found)))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
