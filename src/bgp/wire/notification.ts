/**
 * NOTIFICATION: codes, subcodes, their names, and `WireError`, what a codec throws about a peer's octets.
 *
 * Promises: any octets decode to something that can be shown, unknown codes included; what we build fits the maximum
 * message; text that came from a peer is escaped and bounded before anybody sees it. Leaves to others: when to send which
 * (`session/fsm.ts`, `session/negotiate.ts`) and what to do on receipt.
 *
 * RFC 4271 §4.5 and §6, RFC 4486 (Cease subcodes), RFC 6608 (FSM subcodes), RFC 7313 §5, RFC 8538 (Hard Reset),
 * RFC 9003 (shutdown text), RFC 9234 §5, RFC 9384 (BFD down), RFC 9687 (send hold).
 */

export interface Notification {
  readonly code: number
  readonly subcode: number
  readonly data: Uint8Array
}

export type Reaction = 'discard' | 'withdraw' | 'reset'

/** Damage in a peer's octets: what it costs, and what the peer is told when it costs the session. */
export class WireError extends Error {
  readonly reaction: Reaction
  readonly notification: Notification

  constructor(reaction: Reaction, code: number, subcode: number, why: string, data: Uint8Array = nothing) {
    super(why)
    this.name = 'WireError'
    this.reaction = reaction
    this.notification = { code, subcode, data }
  }
}

const nothing = new Uint8Array(0)

export const code = { header: 1, open: 2, update: 3, hold: 4, fsm: 5, cease: 6, refresh: 7, sendHold: 8 } as const

export const openError = {
  unspecific: 0,
  version: 1,
  peerAs: 2,
  identifier: 3,
  parameter: 4,
  holdTime: 6,
  capability: 7,
  role: 11,
} as const

export const cease = {
  maxPrefixes: 1,
  shutdown: 2,
  deconfigured: 3,
  reset: 4,
  rejected: 5,
  configChange: 6,
  collision: 7,
  resources: 8,
  hardReset: 9,
  bfdDown: 10,
} as const

const codes: Readonly<Record<number, { readonly name: string; readonly subcodes: Readonly<Record<number, string>> }>> =
  {
    1: { name: 'message header error', subcodes: { 1: 'not synchronised', 2: 'bad length', 3: 'bad type' } },
    2: {
      name: 'OPEN error',
      subcodes: {
        1: 'unsupported version',
        2: 'bad peer AS',
        3: 'bad BGP identifier',
        4: 'unsupported optional parameter',
        6: 'unacceptable hold time',
        7: 'unsupported capability',
        11: 'role mismatch',
      },
    },
    3: {
      name: 'UPDATE error',
      subcodes: {
        1: 'malformed attribute list',
        2: 'unrecognised well-known attribute',
        3: 'missing well-known attribute',
        4: 'attribute flags error',
        5: 'attribute length error',
        6: 'invalid ORIGIN',
        8: 'invalid NEXT_HOP',
        9: 'optional attribute error',
        10: 'invalid network field',
        11: 'malformed AS_PATH',
      },
    },
    4: { name: 'hold timer expired', subcodes: {} },
    5: {
      name: 'FSM error',
      subcodes: {
        1: 'unexpected message in OpenSent',
        2: 'unexpected message in OpenConfirm',
        3: 'unexpected message in Established',
      },
    },
    6: {
      name: 'Cease',
      subcodes: {
        1: 'maximum number of prefixes reached',
        2: 'administrative shutdown',
        3: 'peer de-configured',
        4: 'administrative reset',
        5: 'connection rejected',
        6: 'other configuration change',
        7: 'connection collision resolution',
        8: 'out of resources',
        9: 'hard reset',
        10: 'BFD down',
      },
    },
    7: { name: 'ROUTE-REFRESH error', subcodes: { 1: 'invalid message length' } },
    8: { name: 'send hold timer expired', subcodes: {} },
  }

export function notification(code: number, subcode: number, data: Uint8Array = nothing): Notification {
  return { code, subcode, data }
}

/** A Cease for the operator's own doing, with text of at most 255 octets of UTF-8 (RFC 9003 §2). */
export function shutdownNotification(subcode: 2 | 4, text: string): Notification {
  const octets = text === '' ? nothing : cutText(new TextEncoder().encode(text), 255)
  const data = new Uint8Array(1 + octets.length)
  data[0] = octets.length
  data.set(octets, 1)
  return { code: code.cease, subcode, data }
}

/** RFC 8538 §3.1: the real reason travels inside. */
export function hardReset(inner: Notification): Notification {
  const data = new Uint8Array(2 + inner.data.length)
  data[0] = inner.code
  data[1] = inner.subcode
  data.set(inner.data, 2)
  return { code: code.cease, subcode: cease.hardReset, data }
}

/** What a Hard Reset wraps; other notifications are returned as they are. */
export function unwrapHardReset(received: Notification): Notification {
  if (received.code !== code.cease || received.subcode !== cease.hardReset || received.data.length < 2) return received
  return { code: received.data[0]!, subcode: received.data[1]!, data: received.data.subarray(2) }
}

/** Body octets `start..end` of a NOTIFICATION; at least two, as the framer has checked. The data is copied. */
export function decodeNotification(bytes: Uint8Array, start: number, end: number): Notification {
  return { code: bytes[start]!, subcode: bytes[start + 1]!, data: bytes.slice(start + 2, end) }
}

/** The text of a Cease 6/2 or 6/4, escaped for a terminal; undefined when there is none or its length is a lie. */
export function shutdownText(received: Notification): string | undefined {
  const inner = unwrapHardReset(received)
  if (inner.code !== code.cease || (inner.subcode !== cease.shutdown && inner.subcode !== cease.reset)) return undefined
  const length = inner.data[0] ?? 0
  // CVE-2019-16159 and CVE-2025-59688 believed the length octet. More octets than it says are ignored.
  if (length === 0 || 1 + length > inner.data.length) return undefined
  return escapeText(new TextDecoder('utf-8', { fatal: false }).decode(inner.data.subarray(1, 1 + length)))
}

/** In words: `6/2 Cease, administrative shutdown "kernel upgrade"`. Unknown codes stay numbers. */
export function describeNotification(received: Notification): string {
  const inner = unwrapHardReset(received)
  const head = `${received.code}/${received.subcode} `
  const known = codes[inner.code]
  const sub = known?.subcodes[inner.subcode]
  const text = shutdownText(received)
  const words = known ? known.name + (sub ? `, ${sub}` : '') : 'unknown'
  return head + (inner === received ? '' : 'hard reset: ') + words + (text === undefined ? '' : ` "${text}"`)
}

/** Control characters, bidirectional overrides and line separators made visible: the text goes to logs and terminals. */
export function escapeText(text: string): string {
  let out = ''
  for (const char of text) {
    const point = char.codePointAt(0)!
    const unsafe =
      point < 0x20 ||
      (point >= 0x7f && point < 0xa0) ||
      (point >= 0x200b && point <= 0x200f) ||
      (point >= 0x2028 && point <= 0x202e) ||
      (point >= 0x2066 && point <= 0x2069)
    out += unsafe ? `\\u{${point.toString(16)}}` : char
  }
  return out
}

/** Cuts UTF-8 at a character's border, so that the receiver does not see half a character. */
function cutText(octets: Uint8Array, limit: number): Uint8Array {
  if (octets.length <= limit) return octets
  let end = limit
  while (end > 0 && (octets[end]! & 0xc0) === 0x80) end--
  return octets.subarray(0, end)
}
