/** A world for the CLI's tests: the simulated store, a virtual clock, an agent that answers what the test says. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../../../src/app/cli/main.ts'
import type { World } from '../../../src/app/cli/world.ts'
import { clientConfig } from '../../../src/app/config.ts'
import { CodedError } from '../../../src/lib/errors.ts'
import { Ipam } from '../../../src/ipam/index.ts'
import { Resources, apiVersion, type Resource } from '../../../src/model/index.ts'
import { SimClock, SimRandom } from '../../sim/clock.ts'
import { SimStore } from '../../sim/datastore.ts'

const silent = { error() {}, warn() {}, info() {}, debug() {}, with: () => silent }

export interface Said {
  readonly code: number
  readonly out: string
  readonly err: string
}

const folders: string[] = []
process.once('exit', () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'manx-cli-'))
  folders.push(folder)
  return folder
}

/** One cluster and one operator in front of it. */
export class Desk {
  readonly clock = new SimClock(Date.UTC(2026, 10, 19, 12, 10, 43))
  readonly random = new SimRandom(7)
  readonly store = new SimStore({}, { clock: this.clock })
  readonly resources = new Resources({ store: this.store.client('test'), clock: this.clock, random: this.random })
  /** Answers of the agent by path; without one there is no agent. */
  readonly views = new Map<string, unknown>()
  /** Orders given to the agent. */
  readonly posted: (readonly [path: string, body: unknown])[] = []
  readonly folder = scratch()
  strict = false
  interactive = false
  columns: number | undefined
  stdin = ''
  answer = false
  readonly questions: string[] = []
  readonly progress: string[] = []

  ipam(node: string): Ipam {
    return new Ipam(
      { node },
      { store: this.store.client(`ipam-${node}`), clock: this.clock, random: this.random, log: silent },
    )
  }

  /** A file in the test's folder; its path. */
  file(name: string, text: string): string {
    const path = join(this.folder, name)
    writeFileSync(path, text)
    return path
  }

  async put(kind: string, name: string, spec: object, metadata: object = {}): Promise<Resource> {
    return this.resources.create({ kind, apiVersion, metadata: { name, ...metadata }, spec })
  }

  /** Runs a command line; paths of the test's folder are printed without it. Virtual time passes by itself. */
  async run(...argv: string[]): Promise<Said> {
    let out = ''
    let err = ''
    const world: World = {
      clock: this.clock,
      random: this.random,
      environment: {},
      strict: this.strict,
      out: text => void (out += text),
      err: text => void (err += text),
      stdin: () => Promise.resolve(this.stdin),
      interactive: this.interactive,
      columns: this.columns,
      ask: question => {
        this.questions.push(question)
        return Promise.resolve(this.answer)
      },
      timeZone: 'UTC',
      progress: text => void this.progress.push(text),
      connect: () => {
        const store = this.store.client('cli')
        return Promise.resolve({
          config: clientConfig(undefined, {}),
          store,
          resources: new Resources({ store, clock: this.clock, random: this.random }),
          ipam: node => Promise.resolve(this.ipam(node)),
          close: () => Promise.resolve(),
        })
      },
      askAgent: (_flags, _world, path, body) => {
        if (body !== undefined) this.posted.push([path, body])
        return this.views.has(path)
          ? Promise.resolve(this.views.get(path))
          : Promise.reject(new CodedError({ code: 'no-agent' }, `agent is not running: no ${path}`))
      },
    }
    let code: number | undefined
    const running = run(argv, world).then(ended => (code = ended))
    while (code === undefined) {
      await this.clock.settle()
      if (code === undefined) await this.clock.advance(Math.max(0, (this.clock.next() ?? 0) - this.clock.now()))
    }
    await running
    const short = (text: string) => text.replaceAll(`${this.folder}/`, '')
    return { code, out: short(out), err: short(err) }
  }
}

export const pool = (name: string, cidr: string, rest = ''): string =>
  `apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: ${name}\nspec:\n  cidr: ${cidr}\n${rest}`
