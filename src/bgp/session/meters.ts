/**
 * The speaker's metrics, by the names of `operator-experience.md` section 7.
 *
 * Counting happens in `record.ts` as plain integers; here their growth is handed to the metrics port when somebody
 * scrapes, so nothing is paid per message. Labels hold peers, never prefixes. With many mesh peers they become one.
 */

import type { Labels, Metrics } from '../../lib/ports.ts'
import type { PeerRecord } from './record.ts'
import type { PeerSnapshot } from './view.ts'

const mostMeshPeers = 50

const stateNumbers = { Idle: 1, Connect: 2, Active: 3, OpenSent: 4, OpenConfirm: 5, Established: 6 } as const

const messageTypes = ['open', 'update', 'notification', 'keepalive', 'refresh'] as const

export class Meters {
  readonly #mesh: 'auto' | 'sum'
  /** What was last handed over, by family and labels: counters take differences. */
  readonly #told = new Map<string, number>()
  readonly #state
  readonly #info
  readonly #upSeconds
  readonly #downReason
  readonly #flaps
  readonly #messages
  readonly #notifications
  readonly #updateErrors
  readonly #prefixes
  readonly #limit
  readonly #queue
  readonly #stale
  readonly #blocked
  readonly #setup

  constructor(metrics: Metrics, mesh: 'auto' | 'sum') {
    this.#mesh = mesh
    const peer = ['peer']
    this.#state = metrics.gauge('bgp_peer_state', '1 Idle to 6 Established (RFC 4273)', ['peer', 'type'])
    this.#info = metrics.gauge('bgp_peer_info', 'Always 1; facts of a peer as labels', [
      'peer',
      'name',
      'type',
      'remote_as',
      'required',
    ])
    this.#upSeconds = metrics.gauge('bgp_peer_up_seconds', 'How long the session has been Established', peer)
    this.#downReason = metrics.gauge('bgp_peer_down_reason', '1 while the session is down for this reason', [
      'peer',
      'reason',
    ])
    this.#flaps = metrics.counter('bgp_peer_flaps_total', 'Sessions that ended, by reason', ['peer', 'reason'])
    this.#messages = metrics.counter('bgp_peer_messages_total', 'Messages', ['peer', 'dir', 'type'])
    this.#notifications = metrics.counter('bgp_notifications_total', 'NOTIFICATIONs', ['dir', 'code', 'subcode'])
    this.#updateErrors = metrics.counter('bgp_update_errors_total', 'Malformed UPDATEs by what they cost', [
      'peer',
      'reaction',
      'attribute',
    ])
    this.#prefixes = metrics.gauge('bgp_peer_prefixes', 'Prefixes by stage', ['peer', 'family', 'stage'])
    this.#limit = metrics.gauge('bgp_peer_prefix_limit', 'Most prefixes wanted from a peer', ['peer', 'family'])
    this.#queue = metrics.gauge('bgp_peer_queue_bytes', 'Octets waiting in the socket', peer)
    this.#stale = metrics.gauge('bgp_peer_stale_prefixes', 'Prefixes kept over a restart', ['peer', 'family'])
    this.#blocked = metrics.counter('bgp_peer_blocked_seconds_total', 'Time output waited for the peer to read', peer)
    this.#setup = metrics.histogram(
      'bgp_session_setup_seconds',
      'From the beginning of the connection to Established',
      [0.005, 0.02, 0.05, 0.1, 0.5, 1, 5, 30],
    )
  }

  setup(seconds: number): void {
    this.#setup.observe(seconds)
  }

  publish(peers: readonly PeerSnapshot[], recordOf: (peer: PeerSnapshot) => PeerRecord | undefined): void {
    const meshPeers = peers.filter(peer => peer.origin === 'node-to-node mesh').length
    const sum = this.#mesh === 'sum' || meshPeers > mostMeshPeers
    for (const gauge of [
      this.#state,
      this.#info,
      this.#upSeconds,
      this.#downReason,
      this.#prefixes,
      this.#limit,
      this.#queue,
      this.#stale,
    ])
      gauge.reset()
    for (const peer of peers) {
      const joined = sum && peer.origin === 'node-to-node mesh'
      if (!joined) this.#gauges(peer)
      const record = recordOf(peer)
      if (record) this.#counters(peer, joined ? 'mesh' : peer.key, record)
    }
    if (sum) this.#joinedGauges(peers.filter(peer => peer.origin === 'node-to-node mesh'))
  }

  /** A peer that is gone starts from nothing if it comes back. */
  forget(key: string): void {
    for (const told of this.#told.keys()) if (told.startsWith(`${key} `)) this.#told.delete(told)
  }

  #gauges(peer: PeerSnapshot): void {
    const label = { peer: peer.key }
    this.#state.set(stateNumbers[peer.state], { ...label, type: typeOf(peer) })
    this.#info.set(1, {
      ...label,
      name: peer.name,
      type: typeOf(peer),
      remote_as: String(peer.remoteAs),
      required: String(peer.required ?? false),
    })
    this.#upSeconds.set(Math.max(0, peer.upSeconds ?? 0), label)
    if (peer.cause) this.#downReason.set(1, { ...label, reason: peer.cause.code })
    this.#queue.set(peer.queueBytes, label)
    for (const counts of peer.counts) {
      const family = `ipv${counts.family}`
      for (const stage of ['received', 'accepted', 'advertised'] as const)
        this.#prefixes.set(counts[stage], { ...label, family, stage })
      this.#stale.set(counts.stale, { ...label, family })
    }
    if (peer.maxPrefix)
      for (const family of peer.families) this.#limit.set(peer.maxPrefix.limit, { ...label, family: `ipv${family}` })
  }

  /** The least state, and sums of the rest. */
  #joinedGauges(peers: readonly PeerSnapshot[]): void {
    if (peers.length === 0) return
    const sums = new Map<string, number>()
    this.#state.set(Math.min(...peers.map(peer => stateNumbers[peer.state])), { peer: 'mesh', type: 'mesh' })
    this.#queue.set(
      peers.reduce((sum, peer) => sum + peer.queueBytes, 0),
      { peer: 'mesh' },
    )
    for (const peer of peers)
      for (const counts of peer.counts)
        for (const stage of ['received', 'accepted', 'advertised', 'stale'] as const) {
          const key = `ipv${counts.family} ${stage}`
          sums.set(key, (sums.get(key) ?? 0) + counts[stage])
        }
    for (const [key, value] of sums) {
      const [family, stage] = key.split(' ') as [string, string]
      if (stage === 'stale') this.#stale.set(value, { peer: 'mesh', family })
      else this.#prefixes.set(value, { peer: 'mesh', family, stage })
    }
    for (const peer of peers) if (peer.cause) this.#downReason.set(1, { peer: 'mesh', reason: peer.cause.code })
  }

  #counters(peer: PeerSnapshot, label: string, record: PeerRecord): void {
    for (const type of messageTypes) {
      this.#grow(peer.key, this.#messages, { peer: label, dir: 'in', type }, peer.messages.received[type])
      this.#grow(peer.key, this.#messages, { peer: label, dir: 'out', type }, peer.messages.sent[type])
    }
    for (const [reason, count] of record.flapsBy) this.#grow(peer.key, this.#flaps, { peer: label, reason }, count)
    for (const [key, count] of record.notifications) {
      const [dir, code, subcode] = key.split(' ') as [string, string, string]
      this.#grow(peer.key, this.#notifications, { dir, code, subcode }, count)
    }
    for (const [key, count] of record.errorsBy) {
      const [reaction, attribute] = key.split(' ') as [string, string]
      this.#grow(peer.key, this.#updateErrors, { peer: label, reaction, attribute }, count)
    }
    this.#grow(peer.key, this.#blocked, { peer: label }, peer.blockedSeconds)
  }

  /** Hands over what a running total of this peer has grown by. */
  #grow(peer: string, counter: { add(value?: number, labels?: Labels): void }, labels: Labels, total: number): void {
    const key = `${peer} ${this.#ids.of(counter)} ${Object.values(labels).join(' ')}`
    const before = this.#told.get(key) ?? 0
    if (total <= before) return
    this.#told.set(key, total)
    counter.add(total - before, labels)
  }

  readonly #ids = new Numbering()
}

/** A number per counter, so that two counters with the same labels are told apart. */
class Numbering {
  readonly #ids = new Map<object, number>()

  of(thing: object): number {
    const known = this.#ids.get(thing)
    if (known !== undefined) return known
    this.#ids.set(thing, this.#ids.size)
    return this.#ids.size - 1
  }
}

function typeOf(peer: PeerSnapshot): string {
  return peer.origin === 'node-to-node mesh' ? 'mesh' : peer.origin.replace(' ', '-')
}
