/**
 * What a lab remembers between commands, as files: one per thing, so that commands running at once do not lose each
 * other's, and a crash loses at most what was being written.
 *
 *   ROOT/LAB/lab.json            the topology's text, its file, which kinds of router run
 *   ROOT/LAB/processes/NAME.json pid and start time of what was launched
 *   ROOT/LAB/pods/NODE.POD.json  container id, namespace, addresses
 *   ROOT/LAB/NODE/run, state     the agent's two folders;  ROOT/LAB/logs/NAME.log;  ROOT/LAB/store.db
 *
 * ROOT is /run/manx-lab for root, a folder of the user otherwise (user namespaces hide /run), or MANX_LAB_DIR.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { CodedError } from '../../lib/errors.ts'
import type { Launched } from './process.ts'
import { parseTopology, type RouterKind, type Topology } from './topology.ts'

export interface LabRecord {
  readonly file: string
  readonly text: string
  /** What each router really runs; our own speaker where the wanted program is not installed. */
  readonly routers: Readonly<Record<string, RouterKind>>
  readonly createdAtMs: number
  /** Settings by which manxctl reaches the store. */
  readonly storeEnv: Readonly<Record<string, string>>
}

export interface PodRecord {
  readonly node: string
  readonly name: string
  readonly containerId: string
  readonly namespace: string
  readonly addresses: readonly string[]
}

export function stateRoot(): string {
  const named = process.env['MANX_LAB_DIR']
  if (named !== undefined && named !== '') return named
  if (process.getuid?.() === 0) return '/run/manx-lab'
  const home = process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local/state')
  try {
    mkdirSync(join(home, 'manx-lab'), { recursive: true, mode: 0o700 })
    return join(home, 'manx-lab')
  } catch {
    return `/tmp/manx-lab-${process.getuid?.() ?? 0}` // a user without a home, such as nobody
  }
}

/** Names of the labs that are up, or were and crashed. */
export function knownLabs(root = stateRoot()): string[] {
  if (!existsSync(root)) return []
  return readdirSync(root, { withFileTypes: true })
    .filter(entry => entry.isDirectory() && existsSync(join(root, entry.name, 'lab.json')))
    .map(entry => entry.name)
    .sort()
}

/** The lab that a command without a name means: the only one. */
export function onlyLab(name: string | undefined, root = stateRoot()): string {
  const labs = knownLabs(root)
  if (name !== undefined && labs.includes(name)) return name
  if (name === undefined && labs.length === 1) return labs[0]!
  const which = name === undefined ? 'several labs are up' : `no lab \`${name}\``
  throw new CodedError(
    { code: labs.length === 0 ? 'no-lab' : 'which-lab' },
    labs.length === 0 ? 'no lab is up' : `${which}: ${labs.join(', ')}`,
  )
}

export class LabFolder {
  readonly lab: string
  readonly path: string

  constructor(lab: string, root = stateRoot()) {
    this.lab = lab
    this.path = join(root, lab)
  }

  exists(): boolean {
    return existsSync(join(this.path, 'lab.json'))
  }

  create(): void {
    for (const name of ['processes', 'pods', 'logs']) mkdirSync(join(this.path, name), { recursive: true, mode: 0o755 })
  }

  /** The lab's folder, and the root when it was the last. */
  remove(): void {
    rmSync(this.path, { recursive: true, force: true })
    try {
      rmdirSync(dirname(this.path))
    } catch {
      // other labs, or the holder's files, are still there
    }
  }

  record(): LabRecord | undefined {
    return readJson<LabRecord>(join(this.path, 'lab.json'))
  }

  setRecord(record: LabRecord): void {
    writeJson(join(this.path, 'lab.json'), record)
  }

  /** The topology as it was brought up. */
  topology(): Topology {
    const record = this.record()
    if (!record) throw new CodedError({ code: 'no-lab' }, `lab \`${this.lab}\` is not up`)
    return parseTopology(record.text, record.file)
  }

  logFile(name: string): string {
    return join(this.path, 'logs', `${name}.log`)
  }

  /** Folder of one member, made when missing. */
  memberFolder(name: string, ...more: string[]): string {
    const path = join(this.path, name, ...more)
    mkdirSync(path, { recursive: true })
    return path
  }

  removeMember(name: string): void {
    rmSync(join(this.path, name), { recursive: true, force: true })
  }

  processes(): ReadonlyMap<string, Launched> {
    return new Map(readFolder<Launched>(join(this.path, 'processes')))
  }

  setProcess(name: string, launched: Launched | undefined): void {
    setFile(join(this.path, 'processes', `${name}.json`), launched)
  }

  pods(): PodRecord[] {
    return readFolder<PodRecord>(join(this.path, 'pods')).map(([, pod]) => pod)
  }

  pod(node: string, name: string): PodRecord | undefined {
    return readJson<PodRecord>(join(this.path, 'pods', `${node}.${name}.json`))
  }

  setPod(node: string, name: string, pod: PodRecord | undefined): void {
    setFile(join(this.path, 'pods', `${node}.${name}.json`), pod)
  }
}

function setFile(path: string, value: object | undefined): void {
  if (value === undefined) rmSync(path, { force: true })
  else writeJson(path, value)
}

function writeJson(path: string, value: object): void {
  // Renamed into place: a reader, or a crash, never sees half a file.
  const temporary = `${path}.${process.pid}`
  writeFileSync(temporary, `${JSON.stringify(value, null, 2)}\n`)
  renameSync(temporary, path)
}

function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T
  } catch {
    return undefined
  }
}

function readFolder<T>(folder: string): [string, T][] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter(file => file.endsWith('.json'))
    .sort()
    .flatMap(file => {
      const value = readJson<T>(join(folder, file))
      return value === undefined ? [] : [[file.slice(0, -'.json'.length), value] as [string, T]]
    })
}
