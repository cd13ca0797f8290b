/**
 * A lab file (YAML or JSON) -> a topology: every node, router and rack with its addresses, or a list of problems, each
 * with file, line and column.
 *
 * Promises: what it returns can be built: names are unique and fit an interface name, addresses are unique and lie in
 * their fabric or rack, racks that are named exist. Unknown fields are refused. All problems of a file are reported at
 * once. It reads no file and touches no kernel: the caller passes text and path in.
 *
 * Addresses nobody wrote are dealt out the same way each time: routers from .1 up, nodes from .11 up, in file order. In
 * IPv6 the host part has the same digits as in IPv4 (10.0.0.11 <-> fd00:a::11), so that people see the pair.
 */

import { posix } from 'node:path'
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import { LineCounter, parseDocument } from 'yaml'
import { Ip, Prefix } from '../../lib/ip.ts'
import {
  type Context,
  firstSentence,
  nearest,
  type Path,
  rangeOf,
  rangeOfKey,
  report,
  throwIfBad,
  valueAt,
} from './problems.ts'
import { countedNodes, labSchema, namedNodes } from './schema.ts'

export type StoreChoice =
  | { readonly kind: 'embedded' }
  | { readonly kind: 'etcd'; readonly members: number }
  | { readonly kind: 'endpoints'; readonly endpoints: readonly string[] }

/** An address on a segment. */
export interface Seat {
  readonly ip: Ip
  readonly length: number
}

export interface Rack {
  readonly name: string
  readonly cidr: Prefix
  readonly cidr6?: Prefix
}

export type Fabric =
  | { readonly kind: 'l2'; readonly cidr: Prefix; readonly cidr6?: Prefix; readonly mtu: number }
  | { readonly kind: 'spine'; readonly racks: readonly Rack[]; readonly mtu: number; readonly bfd: boolean }

export interface LabNode {
  readonly name: string
  readonly seat: Seat
  readonly seat6?: Seat
  readonly rack?: string
  readonly labels: Readonly<Record<string, string>>
  readonly as?: number
  readonly routeReflectorClusterID?: string
  readonly env: Readonly<Record<string, string>>
  readonly config?: Readonly<Record<string, unknown>>
  readonly pods: number
  /** Folder of another build of manx whose bin/manxd this node runs. */
  readonly version?: string
}

export type RouterKind = 'bird' | 'frr' | 'gobgp' | 'manx'

export interface LabRouter {
  readonly name: string
  readonly kind: RouterKind
  readonly as: number
  readonly seat: Seat
  readonly seat6?: Seat
  /** The rack whose router this is; undefined: a host on the segment. */
  readonly rack?: string
  /** Names of the nodes it peers with. */
  readonly peers: readonly string[]
}

export interface Topology {
  readonly lab: string
  readonly store: StoreChoice
  readonly fabric: Fabric
  readonly nodes: readonly LabNode[]
  readonly routers: readonly LabRouter[]
  /** Manifests, in order, as absolute paths. */
  readonly apply: readonly string[]
}

/** Reads a lab file. Throws CodedError<TopologyFailure> with every problem found. */
export function parseTopology(text: string, file: string): Topology {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true })
  const context: Context = { file, text, lines, document, problems: [] }
  for (const error of document.errors)
    report(context, 'D01', `${file} is not YAML: ${firstSentence(error.message)}`, [error.pos[0], error.pos[1]])
  throwIfBad(context)
  const raw: unknown = document.toJS()
  checkSchema(context, raw)
  throwIfBad(context)
  const topology = resolve(context, raw as RawLab)
  throwIfBad(context)
  return topology
}

// ------------------------------------------------------------------------------------------------------- the file

interface RawNode {
  readonly rack?: string | readonly string[]
  readonly address?: string
  readonly address6?: string
  readonly labels?: Record<string, string>
  readonly as?: number
  readonly routeReflectorClusterID?: string
  readonly env?: Record<string, string | number | boolean>
  readonly config?: Record<string, unknown>
  readonly pods?: number
  readonly version?: string
  readonly count?: number
}

interface RawRouter {
  readonly kind: RouterKind
  readonly as: number
  readonly address?: string
  readonly address6?: string
  readonly rack?: string
  readonly peers?: 'all' | 'none' | readonly string[]
}

interface RawLab {
  readonly lab: string
  readonly store?: string | { readonly endpoints: readonly string[] }
  readonly fabric?: {
    readonly kind?: 'l2' | 'spine'
    readonly cidr?: string
    readonly cidr6?: string
    readonly mtu?: number
    readonly racks?: Record<string, string | { readonly cidr: string; readonly cidr6?: string }>
    readonly bfd?: boolean
  }
  readonly nodes: Record<string, RawNode | null> | (RawNode & { readonly count: number; readonly prefix: string })
  readonly routers?: Record<string, RawRouter>
  readonly apply?: readonly string[]
}

const ajv = new Ajv({ allErrors: true, allowUnionTypes: true, verbose: true })

/** The schema with one form of `nodes`, so that problems speak of the form that was meant. */
function compiled(nodes: object): ValidateFunction {
  return ajv.compile({ ...labSchema, properties: { ...labSchema.properties, nodes } })
}

const validators = { counted: compiled(countedNodes), named: compiled(namedNodes) }

function checkSchema(context: Context, raw: unknown): void {
  const nodes = (raw as { nodes?: { count?: unknown } | null } | null)?.nodes
  const validate = validators[typeof nodes?.count === 'number' ? 'counted' : 'named']
  if (validate(raw)) return
  const errors = validate.errors ?? []
  // A failed branch of an `anyOf` reports each branch and then itself; only the most exact one is worth reading.
  const choices = errors.filter(error => error.keyword === 'anyOf').map(error => error.instancePath)
  for (const error of errors) {
    if (error.keyword === 'anyOf') continue
    if (choices.includes(error.instancePath) && error.keyword === 'type' && isLessExact(error, errors)) continue
    reportSchemaError(context, error)
  }
}

function isLessExact(error: ErrorObject, errors: readonly ErrorObject[]): boolean {
  return errors.some(
    other =>
      other !== error &&
      other.instancePath.startsWith(error.instancePath) &&
      (other.keyword !== 'type' || errors.indexOf(other) < errors.indexOf(error)),
  )
}

function reportSchemaError(context: Context, error: ErrorObject): void {
  const path = error.instancePath
    .split('/')
    .slice(1)
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
  const where = path.length > 0 ? ` in ${path.join('.')}` : ''
  const params = error.params as Record<string, unknown>
  switch (error.keyword) {
    case 'additionalProperties': {
      const field = String(params['additionalProperty'])
      const known = Object.keys((error.parentSchema?.['properties'] ?? {}) as object)
      const near = nearest(field, known)
      const label = near ? `did you mean \`${near}\`?` : undefined
      report(context, 'D04', `unknown field \`${field}\`${where}`, rangeOfKey(context, [...path, field]), label)
      return
    }
    case 'propertyNames':
      report(
        context,
        'D05',
        `\`${String(params['propertyName'])}\` is no name: at most 15 of a-z 0-9 -, no - at the ends`,
        rangeOfKey(context, [...path, String(params['propertyName'])]),
      )
      return
    case 'required':
      report(context, 'D05', `\`${String(params['missingProperty'])}\` is missing${where}`, rangeOf(context, path))
      return
    default: {
      if (error.schemaPath.includes('propertyNames')) return
      const last = path.at(-1) ?? 'the file'
      const rule =
        error.keyword === 'enum' ? `is none of ${(params['allowedValues'] as unknown[]).join(', ')}` : error.message
      report(context, 'D05', `${last} \`${String(valueAt(context, path))}\` ${rule}`, rangeOf(context, path))
    }
  }
}

// -------------------------------------------------------------------------------------------------------- meaning

/** Interfaces of a rack's nodes hang on its router, which has the rack's first address unless it says otherwise. */
const firstRouterHost = 1
const firstNodeHost = 11

function resolve(context: Context, raw: RawLab): Topology {
  const fabric = resolveFabric(context, raw)
  const seats = new Seats(context, fabric)
  const expanded = expandNodes(raw)
  checkNames(context, raw, fabric, expanded)
  const routers = resolveRouters(context, raw, fabric, seats, expanded)
  const nodes = expanded.map(({ name, path, raw: node, rack }) => {
    if (rack !== undefined && !hasRack(fabric, rack))
      report(context, 'D05', `rack \`${rack}\` is none of the fabric's racks`, rangeOf(context, [...path, 'rack']))
    if (fabric.kind === 'spine' && rack === undefined)
      report(context, 'D05', `node \`${name}\` needs a rack: the fabric is a spine`, rangeOfKey(context, path))
    return resolveNode(context, { name, path, node, rack }, seats)
  })
  const folder = posix.dirname(context.file)
  return {
    lab: raw.lab,
    store: resolveStore(raw.store),
    fabric,
    nodes,
    routers,
    apply: (raw.apply ?? []).map(file => posix.resolve(folder, file)),
  }
}

function resolveStore(store: RawLab['store']): StoreChoice {
  if (store === undefined || store === 'embedded') return { kind: 'embedded' }
  if (typeof store === 'object') return { kind: 'endpoints', endpoints: store.endpoints }
  return { kind: 'etcd', members: Number(store.split(':')[1] ?? 1) }
}

function resolveFabric(context: Context, raw: RawLab): Fabric {
  const fabric = raw.fabric ?? {}
  const mtu = fabric.mtu ?? 1500
  if ((fabric.kind ?? 'l2') === 'l2') {
    for (const field of ['racks', 'bfd'] as const)
      if (fabric[field] !== undefined)
        report(context, 'D05', `\`${field}\` needs fabric kind spine`, rangeOfKey(context, ['fabric', field]))
    const cidr = prefixAt(context, ['fabric', 'cidr'], fabric.cidr ?? '10.0.0.0/24', 4)
    const cidr6 = fabric.cidr6 === undefined ? undefined : prefixAt(context, ['fabric', 'cidr6'], fabric.cidr6, 6)
    return { kind: 'l2', cidr, mtu, ...(cidr6 && { cidr6 }) }
  }
  for (const field of ['cidr', 'cidr6'] as const)
    if (fabric[field] !== undefined)
      report(context, 'D05', `\`${field}\` of a spine stands with each rack`, rangeOfKey(context, ['fabric', field]))
  if (!fabric.racks) report(context, 'D05', '`racks` is missing in fabric', rangeOf(context, ['fabric']))
  const racks = Object.entries(fabric.racks ?? {}).map(([name, rack]): Rack => {
    const path = ['fabric', 'racks', name]
    if (typeof rack === 'string') return { name, cidr: prefixAt(context, path, rack, 4) }
    const cidr = prefixAt(context, [...path, 'cidr'], rack.cidr, 4)
    return rack.cidr6 === undefined
      ? { name, cidr }
      : { name, cidr, cidr6: prefixAt(context, [...path, 'cidr6'], rack.cidr6, 6) }
  })
  for (const [i, one] of racks.entries())
    for (const two of racks.slice(0, i))
      if (one.cidr.overlaps(two.cidr))
        report(
          context,
          'D05',
          `rack \`${one.name}\` ${one.cidr.key} overlaps rack \`${two.name}\` ${two.cidr.key}`,
          rangeOf(context, ['fabric', 'racks', one.name]),
        )
  return { kind: 'spine', racks, mtu, bfd: fabric.bfd ?? false }
}

interface Expanded {
  readonly name: string
  readonly path: Path
  readonly raw: RawNode
  readonly rack: string | undefined
}

/** One entry per node: `{count, prefix}` and groups with `count` are numbered from 1, their racks taken in turn. */
function expandNodes(raw: RawLab): Expanded[] {
  if (typeof raw.nodes.count === 'number') {
    const all = raw.nodes as RawNode & { readonly count: number; readonly prefix: string }
    return numbered(all.prefix, ['nodes'], all, all.count)
  }
  return Object.entries(raw.nodes as Record<string, RawNode | null>).flatMap(([name, value]) => {
    const node = value ?? {}
    const path = ['nodes', name]
    return node.count === undefined
      ? [{ name, path, raw: node, rack: rackInTurn(node.rack, 0) }]
      : numbered(name, path, node, node.count)
  })
}

function numbered(prefix: string, path: Path, raw: RawNode, count: number): Expanded[] {
  return Array.from({ length: count }, (_, i) => ({
    name: `${prefix}${i + 1}`,
    path,
    raw,
    rack: rackInTurn(raw.rack, i),
  }))
}

function rackInTurn(rack: RawNode['rack'], i: number): string | undefined {
  return typeof rack === 'object' ? rack[i % rack.length] : rack
}

function hasRack(fabric: Fabric, name: string): boolean {
  return fabric.kind === 'spine' && fabric.racks.some(rack => rack.name === name)
}

/** Nodes, routers, racks and the lab's own namespaces share one set of names. */
function checkNames(context: Context, raw: RawLab, fabric: Fabric, nodes: readonly Expanded[]): void {
  const taken = new Map<string, string>([['fabric', "the lab's own"]])
  if (fabric.kind === 'spine')
    for (const rack of fabric.racks) claim(rack.name, 'a rack', ['fabric', 'racks', rack.name])
  for (const node of nodes) claim(node.name, 'a node', node.path)
  for (const name of Object.keys(raw.routers ?? {})) claim(name, 'a router', ['routers', name])

  function claim(name: string, what: string, path: Path): void {
    const holder = taken.get(name)
    if (holder !== undefined)
      report(context, 'D05', `the name \`${name}\` is taken by ${holder}`, rangeOfKey(context, path))
    else if (name.length > 15)
      report(context, 'D05', `the name \`${name}\` is longer than 15`, rangeOfKey(context, path))
    else if (/^etcd-\d$/.test(name))
      report(context, 'D05', `\`${name}\` is a name of the lab's own`, rangeOfKey(context, path))
    else taken.set(name, what)
  }
}

function resolveRouters(
  context: Context,
  raw: RawLab,
  fabric: Fabric,
  seats: Seats,
  nodes: readonly Expanded[],
): LabRouter[] {
  const racksTaken = new Set<string>()
  return Object.entries(raw.routers ?? {}).map(([name, router]) => {
    const path = ['routers', name]
    if (router.rack !== undefined && !hasRack(fabric, router.rack))
      report(
        context,
        'D05',
        `rack \`${router.rack}\` is none of the fabric's racks`,
        rangeOf(context, [...path, 'rack']),
      )
    if (fabric.kind === 'spine' && router.rack === undefined)
      report(context, 'D05', `router \`${name}\` needs a rack: the fabric is a spine`, rangeOfKey(context, path))
    if (router.rack !== undefined && racksTaken.has(router.rack))
      report(context, 'D05', `rack \`${router.rack}\` has two routers`, rangeOf(context, [...path, 'rack']))
    if (router.rack !== undefined) racksTaken.add(router.rack)
    const wanted = router.peers ?? 'all'
    const near = nodes.filter(node => router.rack === undefined || node.rack === router.rack).map(node => node.name)
    if (typeof wanted === 'object')
      for (const [i, peer] of wanted.entries())
        if (!nodes.some(node => node.name === peer))
          report(context, 'D05', `peer \`${peer}\` is no node`, rangeOf(context, [...path, 'peers', i]))
    return {
      name,
      kind: router.kind,
      as: router.as,
      ...seats.take({ path, ...router, from: firstRouterHost }),
      ...(router.rack !== undefined && { rack: router.rack }),
      peers: wanted === 'all' ? near : wanted === 'none' ? [] : wanted,
    }
  })
}

function resolveNode(
  context: Context,
  entry: { name: string; path: Path; node: RawNode; rack: string | undefined },
  seats: Seats,
): LabNode {
  const { node, rack, path } = entry
  if (node.count !== undefined && node.count > 1 && node.address !== undefined)
    report(context, 'D05', 'an address cannot be shared by a group', rangeOfKey(context, [...path, 'address']))
  const env = Object.entries(node.env ?? {}).map(([key, value]) => [key, String(value)])
  return {
    name: entry.name,
    ...seats.take({ path, address: node.address, address6: node.address6, rack, from: firstNodeHost }),
    ...(rack !== undefined && { rack }),
    labels: { ...(rack !== undefined && { rack }), ...node.labels },
    ...(node.as !== undefined && { as: node.as }),
    ...(node.routeReflectorClusterID !== undefined && { routeReflectorClusterID: node.routeReflectorClusterID }),
    env: Object.fromEntries(env) as Record<string, string>,
    ...(node.config && { config: node.config }),
    pods: node.pods ?? 0,
    ...(node.version !== undefined && { version: posix.resolve(posix.dirname(context.file), node.version) }),
  }
}

/** Deals out addresses per segment, written ones first come first served. */
class Seats {
  readonly #taken = new Set<string>()
  readonly #context: Context
  readonly #fabric: Fabric

  constructor(context: Context, fabric: Fabric) {
    this.#context = context
    this.#fabric = fabric
    // Written addresses are out of bounds for dealing, wherever in the file they stand.
    const raw = context.document.toJS() as RawLab
    for (const one of [...Object.values(raw.nodes), ...Object.values(raw.routers ?? {})])
      if (typeof one === 'object' && one !== null)
        for (const text of [(one as RawNode).address, (one as RawNode).address6])
          if (text !== undefined) this.#written.add(Ip.parse(text)?.key ?? text)
  }
  readonly #written = new Set<string>()

  take(want: {
    path: Path
    address?: string | undefined
    address6?: string | undefined
    rack?: string | undefined
    from: number
  }): { seat: Seat; seat6?: Seat } {
    const { cidr, cidr6 } = this.#segment(want.rack)
    if (cidr6 === undefined && want.address6 !== undefined)
      report(
        this.#context,
        'D05',
        'an IPv6 address needs a fabric with `cidr6`',
        rangeOf(this.#context, [...want.path, 'address6']),
      )
    const written = this.#writtenSeat(want.address, cidr, [...want.path, 'address'])
    const seat = written ?? this.#dealt(cidr, want.from, want.path)
    if (!cidr6) return { seat }
    const written6 = this.#writtenSeat(want.address6, cidr6, [...want.path, 'address6'])
    return { seat, seat6: written6 ?? this.#pairOf(seat, cidr, cidr6) ?? this.#dealt(cidr6, want.from, want.path) }
  }

  #segment(rack: string | undefined): { cidr: Prefix; cidr6?: Prefix } {
    if (this.#fabric.kind === 'l2') return this.#fabric
    // A rack that does not exist has been reported already; any segment will do to go on looking for problems.
    const found = this.#fabric.racks.find(one => one.name === rack) ?? this.#fabric.racks[0]
    return found ?? { cidr: Prefix.of('10.0.0.0/24') }
  }

  #writtenSeat(text: string | undefined, segment: Prefix, path: Path): Seat | undefined {
    if (text === undefined) return undefined
    const ip = Ip.parse(text)
    const where = rangeOf(this.#context, path)
    if (!ip || ip.family !== segment.family)
      report(this.#context, 'D05', `\`${text}\` is no IPv${segment.family} address`, where)
    else if (!segment.contains(ip)) report(this.#context, 'D05', `\`${text}\` lies outside ${segment.key}`, where)
    else if (this.#taken.has(ip.key)) report(this.#context, 'D05', `\`${text}\` is used twice`, where)
    else this.#taken.add(ip.key)
    return ip ? { ip, length: segment.length } : undefined
  }

  #dealt(segment: Prefix, from: number, path: Path): Seat {
    // The last addresses stay out: broadcast, the store's members, the fabric's own.
    const end = segment.size - 6n
    for (let host = BigInt(from); host < end; host++) {
      const ip = segment.ip.plus(host)!
      if (this.#taken.has(ip.key) || this.#written.has(ip.key)) continue
      this.#taken.add(ip.key)
      return { ip, length: segment.length }
    }
    report(this.#context, 'D05', `no free address in ${segment.key}`, rangeOfKey(this.#context, path))
    return { ip: segment.ip, length: segment.length }
  }

  /** fd00:a::11 beside 10.0.0.11: the decimal host number's digits, read as hexadecimal. */
  #pairOf(seat: Seat, cidr: Prefix, cidr6: Prefix): Seat | undefined {
    const host = (seat.ip.value - cidr.ip.value).toString()
    const ip = cidr6.ip.plus(BigInt(`0x${host}`))
    if (!ip || !cidr6.contains(ip) || this.#taken.has(ip.key) || this.#written.has(ip.key)) return undefined
    this.#taken.add(ip.key)
    return { ip, length: cidr6.length }
  }
}

function prefixAt(context: Context, path: Path, text: string, family: 4 | 6): Prefix {
  const prefix = text.includes('/') ? Prefix.parse(text) : undefined
  if (prefix?.family === family) return prefix
  report(context, 'D05', `\`${text}\` is no IPv${family} prefix`, rangeOf(context, path))
  return Prefix.of(family === 4 ? '10.0.0.0/24' : 'fd00:a::/64')
}
