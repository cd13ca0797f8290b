/**
 * What the matrix asks of a foreign router, whatever its configuration language: start with a wish, show routes as it
 * holds them, say goodbye, ask again. One adapter per daemon keeps this promise.
 *
 * An adapter never decides whether a cell passes. Where its daemon lacks a feature it says so in `lacks`, with a probe
 * that is run each time and must bring evidence from the installed version: its refusal, its manual, its OPEN, or what
 * it was seen to do. A probe that finds none throws, and the cell fails.
 */

import { execFileSync, spawnSync } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import type { Family } from '../../src/lib/ip.ts'
import { type Lab, stopped, until } from '../fv/bgp-lab.ts'

/** One neighbour of the router: a speaker of ours. */
export interface NeighborWish {
  readonly address: string
  /** The router's own address towards it. */
  readonly local: string
  readonly as: number
  readonly families: readonly Family[]
  readonly passive?: boolean
  readonly password?: string
  readonly gtsm?: boolean
  readonly client?: boolean
  readonly addPath?: boolean
  readonly extendedNextHop?: boolean
  readonly maxPrefix?: number
  readonly bfd?: boolean
  /** It shall not offer four-octet AS numbers, where its adapter has `oldAs`. */
  readonly twoOctet?: boolean
  /** Long-lived graceful restart both ways (RFC 9494), after a restart time of so many seconds. */
  readonly longLived?: { readonly restartSeconds: number; readonly seconds: number }
}

export interface RouteWish {
  readonly prefix: string
  /** Default: the router's address of that family. */
  readonly nextHop?: string
  /** `65001:7`, `65001:7:8`, and a route target `rt:65001:9`. */
  readonly communities?: readonly string[]
  /** Of routers that pass nothing on: the path that it announces. */
  readonly asPath?: readonly number[]
}

export interface Wish {
  readonly as: number
  readonly neighbors: readonly NeighborWish[]
  readonly routes: readonly RouteWish[]
  /** It comes back after it was killed (RFC 4724, restarting side). */
  readonly restarting?: boolean
}

/** A path as the router holds it. */
export interface Path {
  readonly nextHop: string
  readonly asPath: readonly number[]
  /** All kinds, as in `RouteWish`; sorted. */
  readonly communities: readonly string[]
  readonly originator?: string
  readonly clusters?: readonly string[]
}

/** Evidence that the installed version lacks a feature; throws when there is none. */
export type Lack = (probe: Probe) => string | Promise<string>

export interface Probe {
  /** Capability codes of its OPEN with everything configured that it has. */
  capabilities(): Promise<readonly number[]>
  /** Runs the feature's test as if the router had it and answers how it failed; throws when it passes. */
  fails(): Promise<string>
}

export interface Router {
  readonly name: string
  readonly version: string
  /** Families that one session carries. */
  readonly families: readonly Family[]
  /** It passes routes of one neighbour on to others. */
  readonly forwards: boolean
  /** It can be told not to offer four-octet AS numbers. */
  readonly oldAs?: boolean
  readonly lacks: Readonly<Partial<Record<string, Lack>>>
  /** What the router does not do of a feature that it otherwise has: by feature, or `feature/part`. */
  readonly limits: Readonly<Partial<Record<string, string>>>
  /**
   * Defects of the router that show at times: where a cell fails, the line of its own log that says so, or undefined. The
   * cell counts as lacking then, and passes where it passes.
   */
  defect?(feature: string): string | undefined
  /** Takes up the wish; resolves when the daemon answers. */
  start(wish: Wish): Promise<void>
  /** Ends it without a word. */
  kill(): Promise<void>
  /** Paths to a prefix that came from neighbours. */
  paths(prefix: string): readonly Path[]
  isUp(neighbor: string): boolean
  /** Asks the neighbour for everything again. */
  refresh(neighbor: string): void
  /** Ends the session with words for the neighbour (RFC 9003). */
  goodbye(neighbor: string, words: string): void
  /** What it shows of the neighbour's state and last error, for people; also its log. */
  words(neighbor: string): string
  /** Routers with BFD: whether its session to the neighbour is up, and stop answering on that path. */
  bfdUp?(neighbor: string): boolean
  silenceBfd?(): void
}

/** A process that an adapter runs, at most one of its kind. */
export class Daemon {
  readonly #lab: Lab
  #child: ChildProcess | undefined

  constructor(lab: Lab) {
    this.#lab = lab
  }

  run(command: string, ...args: string[]): void {
    this.#child = this.#lab.start(command, ...args)
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  get gone(): boolean {
    return this.#child === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** Waits until it answers; a daemon that ends meanwhile is an error with its last words. */
  async answers(what: string, asked: () => boolean): Promise<void> {
    await until(`${what} answers`, () => {
      if (this.gone) throw new Error(`${what} ended: ${this.#lab.lastLines(3)}`)
      return quietly(asked, false)
    })
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name)
  }

  async kill(): Promise<void> {
    if (this.#child) await stopped(this.#child, 'SIGKILL')
    this.#child = undefined
  }
}

/** Without four-octet numbers it knows such a neighbour as AS_TRANS (RFC 6793 §9). */
export function twoOctetAs({ as, twoOctet }: NeighborWish): number {
  return twoOctet && as > 0xffff ? 23456 : as
}

export function quietly<T>(run: () => T, otherwise: T): T {
  try {
    return run()
  } catch {
    return otherwise
  }
}

/** All that a command says, whatever its exit status. */
export function said(command: string, ...args: string[]): string {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' })
  return `${stdout ?? ''}${stderr ?? ''}`.trim()
}

/** The text of an installed manual page. */
export function manual(page: string): string {
  const text = execFileSync('zcat', ['-f', page], { encoding: 'utf8', maxBuffer: 1 << 24 })
  // Roff's macros stand at line starts; without them it is prose.
  return text
    .replaceAll(/^\.\\".*$/gm, '')
    .replaceAll(/^\.[A-Z][a-z]?\s?/gm, '')
    .replaceAll(/\s+/g, ' ')
}

/** The sentence around what a pattern finds, or an error. */
export function quoted(text: string, pattern: RegExp, where: string): string {
  const found = pattern.exec(text)
  if (!found) throw new Error(`${where} does not say ${pattern.source}`)
  return `${where}: "${found[0].trim()}"`
}

/** Evidence by a capability that its OPEN does not list. */
export function notOffered(code: number, name: string): Lack {
  return async probe => {
    const codes = await probe.capabilities()
    if (codes.includes(code)) throw new Error(`its OPEN does offer capability ${code} (${name})`)
    return `its OPEN lists capabilities ${codes.join(', ')}: not ${code} (${name})`
  }
}
