/** The import rules bite: each bad snippet breaks exactly the rule it was written for, each good one none. */

import { expect, test } from 'vitest'
import { checkFile, importsOf, withoutComments } from '../../scripts/rooms.ts'

const broken: readonly { name: string; file: string; text: string; line: number; rule: RegExp }[] = [
  {
    name: 'bgp imports felix',
    file: 'src/bgp/speaker.ts',
    text: "import { x } from '../felix/index.ts'",
    line: 1,
    rule: /^bgp may not import felix/,
  },
  {
    name: 'ipam imports platform, type only',
    file: 'src/ipam/claim.ts',
    text: "\nimport type { Etcd } from '../platform/etcd.ts'",
    line: 2,
    rule: /^ipam may not import platform/,
  },
  {
    name: 'lib imports model',
    file: 'src/lib/ip.ts',
    text: "export * from '../model/index.ts'",
    line: 1,
    rule: /^lib may not import model/,
  },
  {
    name: 'platform imports bgp',
    file: 'src/platform/linux/routes.ts',
    text: "import {\n  a,\n  b,\n} from '../../bgp/index.ts'",
    line: 4,
    rule: /^platform may not import bgp/,
  },
  {
    name: 'model past its door',
    file: 'src/ipam/ipam.ts',
    text: "import type { Block } from '../model/kinds/ipam.ts'",
    line: 1,
    rule: /^model is entered through/,
  },
  {
    name: 'speaker touches model',
    file: 'src/bgp/speaker.ts',
    text: "import type { Node } from '../model/index.ts'",
    line: 1,
    rule: /^only bgp\/mesh.ts touches model/,
  },
  {
    name: 'wire imports rib',
    file: 'src/bgp/wire/update.ts',
    text: "import { x } from '../rib/table.ts'",
    line: 1,
    rule: /^bgp\/wire may not import bgp\/rib/,
  },
  {
    name: 'rib imports session',
    file: 'src/bgp/rib/export.ts',
    text: "import { x } from '../session/peer.ts'",
    line: 1,
    rule: /^bgp\/rib may not import bgp\/session/,
  },
  {
    name: 'session imports speaker, lazily',
    file: 'src/bgp/session/peer.ts',
    text: "const s = await import('../speaker.ts')",
    line: 1,
    rule: /^bgp\/session may not import bgp\/top/,
  },
  {
    name: 'calc imports rules',
    file: 'src/felix/calc/graph.ts',
    text: "import { x } from '../rules/names.ts'",
    line: 1,
    rule: /^felix\/calc may not import felix\/rules/,
  },
  {
    name: 'rules import sync',
    file: 'src/felix/rules/nat.ts',
    text: "import { x } from '../sync/tables.ts'",
    line: 1,
    rule: /^felix\/rules may not import felix\/sync/,
  },
  {
    name: 'sync imports rendered policy',
    file: 'src/felix/sync/tables.ts',
    text: "import { x } from '../rules/policy.ts'",
    line: 1,
    rule: /^felix\/sync may not import felix\/rules/,
  },
  {
    name: 'child_process in app',
    file: 'src/app/agent.ts',
    text: "import { spawn } from 'node:child_process'",
    line: 1,
    rule: /child_process belongs to platform/,
  },
  {
    name: 'child_process elsewhere in the lab',
    file: 'src/app/lab/lab.ts',
    text: "import { spawn } from 'node:child_process'",
    line: 1,
    rule: /child_process belongs to platform/,
  },
  {
    name: 'node:net in bgp',
    file: 'src/bgp/session/peer.ts',
    text: "import net from 'node:net'",
    line: 1,
    rule: /sockets belong to platform/,
  },
  {
    name: 'etcd3 in model',
    file: 'src/model/syncer.ts',
    text: 'import { Etcd3 } from "etcd3"',
    line: 1,
    rule: /etcd client belongs to platform/,
  },
  {
    name: 'fastify in the agent',
    file: 'src/app/agent.ts',
    text: "import fastify from 'fastify'",
    line: 1,
    rule: /fastify belongs to app\/http.ts/,
  },
  {
    name: 'files in ipam',
    file: 'src/ipam/gc.ts',
    text: "import { readFileSync } from 'node:fs'",
    line: 1,
    rule: /node:fs belongs to platform and app/,
  },
  {
    name: 'promised files in felix',
    file: 'src/felix/felix.ts',
    text: "import { readFile } from 'node:fs/promises'",
    line: 1,
    rule: /node:fs belongs to platform and app/,
  },
  {
    name: 'an import without extension',
    file: 'src/ipam/ipam.ts',
    text: "import { x } from './block'",
    line: 1,
    rule: /write the .ts extension/,
  },
  {
    name: 'a test imported by a core',
    file: 'src/ipam/ipam.ts',
    text: "import { x } from '../../test/sim/clock.ts'",
    line: 1,
    rule: /outside src/,
  },
  {
    name: 'a barrel inside a room',
    file: 'src/bgp/wire/index.ts',
    text: "export * from './open.ts'",
    line: 1,
    rule: /only at the door/,
  },
  {
    name: 'a door with logic',
    file: 'src/ipam/index.ts',
    text: "export { a } from './ipam.ts'\nexport const b = 1",
    line: 1,
    rule: /re-exports and nothing more/,
  },
  { name: 'a room that is not there', file: 'src/util/x.ts', text: '', line: 1, rule: /no room/ },
]

for (const c of broken)
  test(`refused: ${c.name}`, () => {
    const findings = checkFile(c.file, c.text)
    expect(findings).toHaveLength(1)
    expect(findings[0]?.line).toBe(c.line)
    expect(findings[0]?.rule).toMatch(c.rule)
  })

const sound: readonly { name: string; file: string; text: string }[] = [
  { name: 'mesh touches model', file: 'src/bgp/mesh.ts', text: "import type { Node } from '../model/index.ts'" },
  {
    name: 'rib uses wire and lib',
    file: 'src/bgp/rib/table.ts',
    text: "import '../wire/update.ts'\nimport '../../lib/ip.ts'",
  },
  { name: 'sync knows our marks', file: 'src/felix/sync/tables.ts', text: "import { hash } from '../rules/names.ts'" },
  {
    name: 'the lab starts programs',
    file: 'src/app/lab/process.ts',
    text: "import { spawn } from 'node:child_process'",
  },
  { name: 'http.ts uses fastify', file: 'src/app/http.ts', text: "import fastify from 'fastify'" },
  {
    name: 'app takes an adapter by its file',
    file: 'src/app/main.ts',
    text: "import { tcp } from '../platform/tcp.ts'",
  },
  { name: 'a commented import', file: 'src/ipam/ipam.ts', text: "// import net from 'node:net'\n/* import 'etcd3' */" },
  { name: 'a URL before an import', file: 'src/ipam/x.ts', text: "const u = 'http://x' // y\nimport '../lib/ip.ts'" },
  {
    name: 'a door',
    file: 'src/bgp/index.ts',
    text: "/** Door. */\nexport { a, type B } from './speaker.ts'\nexport type { C } from './types.ts'\n",
  },
]

for (const c of sound) test(`allowed: ${c.name}`, () => expect(checkFile(c.file, c.text)).toEqual([]))

test('imports keep their names and lines', () => {
  const code = withoutComments("/* a\n */\nimport { type A, b as c } from './x.ts'\nexport type { D } from './y.ts'\n")
  expect(importsOf(code)).toEqual([
    { line: 3, specifier: './x.ts', names: ['A', 'b'] },
    { line: 4, specifier: './y.ts', names: ['D'] },
  ])
})
