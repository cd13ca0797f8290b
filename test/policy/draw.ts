/**
 * What is drawn for any document of a set: names, labels, selectors, networks, all from a small stock.
 *
 * The stock is small on purpose (three namespaces, few labels, few ports), so that what one document asks for another one
 * often has. Everything comes from the one seeded source, in the order of the calls.
 */

import { Prefix, type Family } from '../../src/lib/ip.ts'
import type { LabelSelector } from '../../src/model/index.ts'
import type { SimRandom } from '../sim/clock.ts'
import { stations, type Document } from './cluster.ts'

type Stock = Readonly<Record<string, readonly string[]>>

export const namespaces = ['red', 'blue', 'green']
export const accounts = ['default', 'runner', 'api-x']
export const labelValues: Stock = {
  app: ['web', 'db', 'web-cache'],
  tier: ['front', 'back'],
  'example.org/env': ['prod', 'dev'],
}
export const namespaceLabels: Stock = { team: ['a', 'b'], 'zone.x/y': ['near', 'far'] }
export const hostLabels: Stock = { host: ['edge', 'core'], app: ['web'] }
export const accountLabels: Stock = { role: ['ci', 'ops'] }
export const portNames = ['http', 'dns', 'assoc', 'alt.1_x']
/** The last one has no endpoints, unless somebody gives it some. */
export const serviceNames = ['front', 'store', 'nowhere']

export const directions = ['ingress', 'egress'] as const
export type Direction = (typeof directions)[number]

export class Draw {
  protected readonly random: SimRandom
  readonly #names = new Set<string>()

  constructor(random: SimRandom) {
    this.random = random
  }

  protected few<T>(make: () => T): T[] {
    return Array.from({ length: 1 + this.random.below(3) }, make)
  }

  /** A network that holds some station, or none at all. */
  protected net(family: Family, least = 0): Prefix {
    const r = this.random
    const { ip } = r.pick(stations)
    const lengths =
      family === 4 ? [0, 8, 23, 24, 26, 28, 29, 30, 31, 32, 32] : [0, 16, 63, 64, 112, 122, 125, 126, 127, 128, 128]
    const length = r.pick(lengths.filter(one => one >= least))
    const far = family === 4 ? Prefix.of('192.0.2.0/24') : Prefix.of('2001:db8::/32')
    return r.chance(0.1) ? far : new Prefix(ip[family], length)
  }

  protected selector(from: Readonly<Record<string, readonly string[]>>, depth = 0): string {
    const r = this.random
    const again = () => this.selector(from, depth + 1)
    if (depth < 2 && r.chance(0.25))
      return r.pick([`${again()} && ${again()}`, `(${again()} || ${again()})`, `!(${again()})`])
    if (r.chance(0.08)) return depth === 0 ? r.pick(['all()', '', 'all( )']) : 'all()'
    const [label, values] = r.pick(Object.entries(from))
    const value = r.pick([...values, 'nobody'])
    const quoted = r.chance(0.5) ? `"${value}"` : `'${value}'`
    return r.pick([
      `${label} == ${quoted}`,
      `${label}==${quoted}`,
      `${label} != ${quoted}`,
      `${label} in {${quoted}, 'other'}`,
      `${label} not in { ${quoted} }`,
      `${label} notin {${quoted},}`,
      `has(${label})`,
      `!has(${label})`,
      `${label} contains '${value.slice(1, 3)}'`,
      `${label} starts with '${value.slice(0, 2)}'`,
      `${label} ends  with '${value.slice(-2)}'`,
    ])
  }

  protected labels(from: Readonly<Record<string, readonly string[]>>, probability: number): Record<string, string> {
    const labels = some(this.random, Object.keys(from), probability)
    return Object.fromEntries(labels.map(label => [label, this.random.pick(from[label]!)]))
  }

  protected name(prefix: string): string {
    for (;;) {
      const name = `${prefix}${this.random.below(100)}`
      if (this.#names.has(name)) continue
      this.#names.add(name)
      return name
    }
  }

  protected labelSelector(from: Readonly<Record<string, readonly string[]>>): LabelSelector {
    const r = this.random
    const [key, values] = r.pick(Object.entries(from))
    const value = r.pick(values)
    return r.pick([
      { matchLabels: { [key]: value } },
      { matchExpressions: [{ key, operator: 'In' as const, values: [value, 'other'] }] },
      { matchExpressions: [{ key, operator: 'NotIn' as const, values: [value] }] },
      { matchExpressions: [{ key, operator: 'Exists' as const }] },
      { matchExpressions: [{ key, operator: 'DoesNotExist' as const }] },
    ])
  }
}

export function kubernetes(
  version: string,
  kind: string,
  metadata: { name: string; namespace?: string; labels?: Record<string, string> },
  spec?: object,
): Document {
  return { apiVersion: version, kind, metadata, ...(spec ? { spec } : {}) }
}

export function some<T>(r: SimRandom, from: readonly T[], probability: number): T[] {
  return from.filter(() => r.chance(probability))
}
