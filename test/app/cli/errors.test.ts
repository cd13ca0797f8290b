/** Wrong input, one row per mistake of operator-experience.md 4: the text, the exit code, and nothing half-applied. */

import { describe, expect, test } from 'vitest'
import { Desk, pool } from './world.ts'

const head = (kind: string, name: string) =>
  `apiVersion: projectcalico.org/v3\nkind: ${kind}\nmetadata: {name: ${name}}\n`

const mistakes = [
  {
    name: 'D01 a value that may not start so',
    yaml: 'kind: IPPool\nmetadata:\n  name: a\n  labels:\n    x: @home\n',
    code: 1,
    err: `error[D01]: pools.yaml is not YAML: a value may not start with @
 --> pools.yaml:5:8
  |
5 |     x: @home
  |        ^
  try: quote it: "@home"
error: nothing was changed
`,
  },
  {
    name: 'D01 a tab',
    yaml: 'kind: IPPool\nmetadata:\n\tname: a\n',
    code: 1,
    has: ['error[D01]: pools.yaml is not YAML: a tab indents this line', '--> pools.yaml:3:1', 'try: use spaces'],
  },
  {
    name: 'D01 a field twice',
    yaml: 'kind: IPPool\nkind: Node\n',
    code: 1,
    has: ['error[D01]: pools.yaml is not YAML: this field is there twice', '--> pools.yaml:2:1', 'try: keep one'],
  },
  {
    name: 'D02 kind misspelt',
    yaml: 'apiVersion: projectcalico.org/v3\nkind: IPpool\nmetadata: {name: a}\n',
    code: 1,
    err: `error[D02]: unknown kind \`IPpool\`
 --> pools.yaml:2:7
  |
2 | kind: IPpool
  |       ^^^^^^
  try: did you mean \`IPPool\`? All kinds: manxctl help kinds
error: nothing was changed
`,
  },
  {
    name: "D03 the storage form's apiVersion",
    yaml: 'apiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/24}\n',
    code: 1,
    has: [
      "error[D03]: apiVersion `crd.projectcalico.org/v1` is Calico's storage form",
      '--> pools.yaml:1:13',
      'try: write `projectcalico.org/v3`',
    ],
  },
  {
    name: 'D04 unknown field',
    yaml: pool(
      'pods-v4',
      '10.48.0.0/22',
      '  natOutgoing: true\n  vxlanMode: Never\n  ipipMode: Never\n  blocksize: 26\n',
    ),
    code: 1,
    err: `error[D04]: unknown field \`blocksize\` in IPPool \`pods-v4\`
  --> pools.yaml:10:3
   |
10 |   blocksize: 26
   |   ^^^^^^^^^ did you mean \`blockSize\`?
   = field in document is not recognized or is in the wrong location: blocksize
error: nothing was changed
`,
  },
  {
    name: 'D05 value not allowed',
    yaml: pool('pods-v4', '10.48.0.0/22', '  vxlanMode: always\n'),
    code: 1,
    has: [
      'error[D05]: vxlanMode `always` is none of Never, Always, CrossSubnet',
      '--> pools.yaml:7:14',
      '^^^^^^ did you mean `Always`?',
    ],
  },
  {
    name: 'D08 selector, caret inside the text',
    yaml: pool('pods-v4', '10.48.0.0/22', '  nodeSelector: "app && x == 1"\n'),
    code: 1,
    has: ['error[D08]: nodeSelector: expected', '--> pools.yaml:7:'],
  },
  {
    name: 'D09 dangling name',
    yaml: `${head('BGPPeer', 'gw')}spec:\n  peerIP: 10.0.0.1\n  asNumber: 65001\n  filters:\n    - only-pods\n`,
    code: 1,
    has: [
      'error[D09]: BGPPeer `gw` uses BGPFilter `only-pods`, which is neither in the store nor in these files',
      '--> pools.yaml:8:7',
      'try: there is no BGPFilter yet: create it first',
    ],
  },
  {
    name: 'D10 exclusive fields, both lines',
    yaml: `${head('BGPPeer', 'gw')}spec:\n  node: a\n  nodeSelector: all()\n  peerIP: 10.0.0.1\n  asNumber: 65001\n`,
    code: 1,
    err: `error[D10]: BGPPeer \`gw\` has both \`node\` and \`nodeSelector\`
 --> pools.yaml:6:3
  |
5 |   node: a
  |   ^^^^
6 |   nodeSelector: all()
  |   ^^^^^^^^^^^^
  try: keep one
error: nothing was changed
`,
  },
  {
    name: 'D11 a cluster-wide kind in a namespace',
    yaml: pool('pods-v4', '10.48.0.0/22'),
    flags: ['-n', 'shop'],
    code: 1,
    has: ['error[D11]: IPPool is not namespaced', 'try: leave out -n'],
  },
  {
    name: 'D11 two namespaces',
    yaml: `apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: a, namespace: shop}\nspec: {}\n`,
    flags: ['-n', 'dev'],
    code: 1,
    has: ['error[D11]: resource namespace does not match client namespace. shop != dev', '--> pools.yaml:3:32'],
  },
  {
    name: 'a file without resources',
    yaml: '# nothing\n',
    code: 1,
    has: ['error[U03]: no resources specified in file '],
  },
]

describe('a bad document', () => {
  for (const { name, yaml, code, err, has, flags } of mistakes)
    test(name, async () => {
      const desk = new Desk()
      const said = await desk.run('apply', '-f', desk.file('pools.yaml', yaml), ...(flags ?? []))
      if (err !== undefined) expect(said.err).toBe(err)
      for (const part of has ?? []) expect(said.err).toContain(part)
      expect(said).toMatchObject({ code, out: '' })
      expect(desk.store.list('')).toEqual([])
    })
})

describe('documents against the store', () => {
  test('D06: a pool that overlaps one in the store, one in the files; a free range is offered', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/22' })
    const text = `${pool('b', '10.48.2.0/24')}---\n${pool('c', '10.48.4.0/24')}---\n${pool('d', '10.48.4.128/25')}`
    const said = await desk.run('apply', '-f', desk.file('site.yaml', text))
    expect(
      said.err,
    ).toBe(`error[D06]: IPPool \`b\` 10.48.2.0/24 overlaps IPPool \`pods-v4\` 10.48.0.0/22 (in the store since 2026-11-19)
 --> site.yaml:6:9 (document 1)
  |
6 |   cidr: 10.48.2.0/24
  |         ^^^^^^^^^^^^
  try: manxctl get ippool pods-v4 -o yaml; free: \`10.48.5.0/24\`
error[D06]: IPPool \`d\` 10.48.4.128/25 overlaps IPPool \`c\` 10.48.4.0/24 (in these files)
  --> site.yaml:20:9 (document 3)
   |
20 |   cidr: 10.48.4.128/25
   |         ^^^^^^^^^^^^^^
   try: free: \`10.48.5.0/25\`
error: nothing was changed: 2 of 3 documents are bad, 1 is good
try: correct it and repeat; or commit the good ones: manxctl apply -f site.yaml --keep-going
`)
    expect((await desk.resources.list('IPPool')).items.map(item => item.metadata.name)).toEqual(['pods-v4'])
  })

  test('D07: a field that cannot change', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/22' })
    await desk.put('Node', 'node-a', {})
    await desk.ipam('node-a').assign({ handle: 'h', attributes: {}, use: 'Workload', num4: 65, num6: 0 })
    const file = desk.file('p.yaml', pool('pods-v4', '10.48.0.0/22', '  blockSize: 28\n'))
    const said = await desk.run('apply', '-f', file)
    expect(said.code).toBe(1)
    expect(said.err).toContain(
      'error[D07]: blockSize of IPPool `pods-v4` cannot change from 26 to 28: 2 blocks exist\n',
    )
    expect(said.err).toContain('--> p.yaml:7:14')
    expect(said.err).toContain('try: manxctl help D07')
  })

  test('D12: exists for create, missing for replace and delete', async () => {
    const desk = new Desk()
    await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/22' })
    const exists = await desk.run('create', '-f', desk.file('p.yaml', pool('pods-v4', '10.48.0.0/22')))
    expect(exists).toMatchObject({ code: 1 })
    expect(exists.err).toContain('error[D12]: resource already exists: IPPool(pods-v4)')
    expect(exists.err).toContain('try: manxctl apply -f p.yaml')
    const missing = await desk.run('replace', '-f', desk.file('q.yaml', pool('pod-v4', '10.52.0.0/22')))
    expect(missing.err).toContain('error[D12]: resource does not exist: IPPool(pod-v4)')
    expect(missing.err).toContain('try: did you mean `pods-v4`?')
    const gone = await desk.run('delete', 'pool', 'pod-v4')
    expect(gone).toEqual({
      code: 1,
      out: '',
      err: 'error[D12]: resource does not exist: IPPool(pod-v4)\n   try: did you mean `pods-v4`?\nerror: nothing was changed\n',
    })
  })

  test('D13: a stale edit is a conflict, exit 4, and says what differs', async () => {
    const desk = new Desk()
    const stored = await desk.put('IPPool', 'pods-v4', { cidr: '10.48.0.0/22' })
    const text = pool('pods-v4', '10.48.0.0/22', '  natOutgoing: true\n').replace(
      '  name: pods-v4\n',
      "  name: pods-v4\n  resourceVersion: '1'\n",
    )
    const said = await desk.run('apply', '-f', desk.file('p.yaml', text))
    expect(said.code).toBe(4)
    const latest = stored.metadata.resourceVersion
    expect(said.err).toContain(`error[D13]: resource version '1' is out of date (latest: ${latest})`)
    expect(said.err).toContain('differs from what is stored: spec.natOutgoing: (none) -> true')
    expect(said.err).toContain('try: manxctl get ippool pods-v4 -o yaml, or drop `resourceVersion`')
  })

  test('S03: the store does not answer, exit 5', async () => {
    const desk = new Desk()
    desk.store.faults.unavailable = 1
    const said = await desk.run('get', 'pools')
    expect(said.code).toBe(5)
    expect(said.err).toMatch(/^error\[S03\]: store does not answer: /)
    expect(said.err).toContain('try: settings: manxctl config view')
  })

  test('one bad document of three stops all; --keep-going commits the good ones', async () => {
    const desk = new Desk()
    const text = `${pool('a', '10.48.0.0/24')}---\n${pool('b', '10.49.0.0/24', '  x: 1\n')}---\n${pool('c', '10.50.0.0/24')}`
    const file = desk.file('site.yaml', text)
    const stopped = await desk.run('apply', '-f', file)
    expect(stopped.code).toBe(1)
    expect(stopped.err).toContain('--> site.yaml:14:3 (document 2)')
    expect(stopped.err).toContain('error: nothing was changed: 1 of 3 documents is bad, 2 are good\n')
    expect(desk.store.list('')).toEqual([])
    const gone = await desk.run('apply', '--keep-going', '-f', file)
    expect(gone.code).toBe(1)
    expect(gone.err).toContain('error[D04]: unknown field `x` in IPPool `b`')
    expect(gone.err).toContain('error: 2 of 3 resources were applied: IPPool(a), IPPool(c)\n')
    expect((await desk.resources.list('IPPool')).items.map(item => item.metadata.name)).toEqual(['a', 'c'])
  })

  test('-o json: every error as data', async () => {
    const desk = new Desk()
    const said = await desk.run(
      'apply',
      '-o',
      'json',
      '-f',
      desk.file('p.yaml', pool('a', '10.0.0.0/24', '  blocksize: 26\n')),
    )
    expect(JSON.parse(said.err)).toEqual({
      errors: [
        {
          code: 'D04',
          message: 'unknown field `blocksize` in IPPool `a`',
          file: 'p.yaml',
          line: 7,
          column: 3,
          endColumn: 12,
          why: 'field in document is not recognized or is in the wrong location: blocksize',
          hint: 'did you mean `blockSize`?',
        },
      ],
      changed: 0,
    })
  })
})

describe('words that are not known: exit 2, nothing is contacted', () => {
  const words: readonly (readonly [readonly string[], string])[] = [
    [['get', 'pools', '--outptu', 'json'], 'error[U02]: unknown flag `--outptu`\n   try: did you mean `--output`?\n'],
    [['get', 'pools', '--outptu=json'], 'error[U02]: unknown flag `--outptu`\n   try: did you mean `--output`?\n'],
    [['aply', '-f', 'x'], 'error[U02]: unknown command `aply`\n   try: did you mean `apply`?\n'],
    [['node', 'stauts'], 'error[U02]: unknown command `node stauts`\n   try: did you mean `node status`?\n'],
    [['node'], 'error[U02]: `manxctl node` needs a verb\n   try: one of: node status\n'],
    [
      ['get', 'ippol'],
      "error[D02]: unknown kind `ippol`\n   = resource type 'ippol' is not supported\n   try: did you mean `ippool`? All kinds: manxctl help kinds\n",
    ],
    [['apply'], 'error[U02]: no file: give one with `-f`\n'],
    [['apply', '-f'], 'error[U02]: flag `--filename` needs a value\n   try: manxctl help apply\n'],
    [['get', 'pools', '-o', 'jsno'], 'error[U02]: unrecognized output format `jsno`\n   try: did you mean `json`?\n'],
    [
      ['help', 'B99'],
      'error[U02]: there is no code `B99`\n   try: codes of its letter: B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B13 B14 B15 B16 B17\n',
    ],
  ]
  for (const [argv, err] of words)
    test(`manxctl ${argv.join(' ')}`, async () => {
      const desk = new Desk()
      desk.store.faults.unavailable = 1
      expect(await desk.run(...argv)).toEqual({ code: 2, out: '', err })
    })
})
