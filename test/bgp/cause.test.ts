/** Every cause why a session is not up, in the words that an operator reads (operator-experience.md 1). */

import { describe, expect, test } from 'vitest'
import {
  type Cause,
  type CauseCode,
  causeOf,
  describeDown,
  type Circumstances,
  dialFailed,
  waitsForPeer,
} from '../../src/bgp/session/cause.ts'
import type { DownReason, StateName } from '../../src/bgp/session/fsm.ts'
import { PathGate } from '../../src/bgp/session/path.ts'
import { PeerRecord } from '../../src/bgp/session/record.ts'
import type { PeerConfig } from '../../src/bgp/types.ts'
import {
  cease,
  code,
  hardReset,
  notification,
  openError,
  shutdownNotification,
} from '../../src/bgp/wire/notification.ts'
import type { CloseReason } from '../../src/lib/ports.ts'
import { Ip } from '../../src/lib/ip.ts'
import { SimClock } from '../sim/clock.ts'
import { peerConfig } from './fixtures.ts'

interface Row {
  readonly name: string
  readonly cause: () => Cause | undefined
  readonly text: string
}

const facts = (more: Partial<PeerConfig> = {}, rest: Partial<Circumstances> = {}): Circumstances => ({
  peer: peerConfig('10.0.0.2', more),
  from: 'established',
  tries: 1,
  ...rest,
})
const dial = (reason: CloseReason, more: Partial<PeerConfig> = {}, tries = 1) =>
  dialFailed(reason, 'words of the kernel', facts(more, { from: 'connect', tries }))
const over = (why: DownReason, from: StateName = 'established', more: Partial<PeerConfig> = {}) =>
  causeOf(why, facts(more, { from, remoteAs: 65009 }))
const sent = (what: number, subcode = 0, why = 'words of ours'): DownReason => ({
  kind: 'sent',
  sent: notification(what, subcode),
  why,
})
const received = (what: number, subcode = 0): DownReason => ({
  kind: 'received',
  received: notification(what, subcode),
})
const lost: DownReason = { kind: 'tcp', reason: 'ended', message: '' }

const rows: Readonly<Record<CauseCode, readonly Row[]>> = {
  connecting: [
    {
      name: 'nothing is known yet',
      cause: () => new PeerRecord(new SimClock()).cause,
      text: 'connecting',
    },
    { name: 'a session lost without a word', cause: () => over(lost), text: 'TCP closed, no NOTIFICATION' },
    {
      name: 'our configuration changed',
      cause: () => over(sent(code.cease, cease.configChange)),
      text: 'configuration changed',
    },
  ],
  'no-route': [
    { name: 'the first time', cause: () => dial('no-route'), text: 'no route to 10.0.0.2' },
    { name: 'again and again', cause: () => dial('no-route', {}, 7), text: 'no route to 10.0.0.2: 7 tries' },
  ],
  refused: [
    { name: 'RST', cause: () => dial('refused', {}, 3), text: 'refuses TCP 179: no BGP there, or not for us: 3 tries' },
    {
      name: 'another port',
      cause: () => dial('refused', { port: 1790 }),
      text: 'refuses TCP 1790: no BGP there, or not for us',
    },
  ],
  'no-answer': [
    { name: 'silence', cause: () => dial('timeout', {}, 9), text: 'no answer on TCP 179: 9 tries' },
    {
      name: 'an error that we have no name for',
      cause: () => dial('error'),
      text: 'dialling TCP 179 failed: words of the kernel',
    },
  ],
  'password-suspected': [
    {
      name: 'silence where we sign (RFC 2385 §4.1)',
      cause: () => dial('timeout', { password: 'x' }, 2),
      text: 'no answer on TCP 179 with our password: 2 tries',
    },
  ],
  'password-missing': [
    {
      name: 'as the configuration says it',
      cause: () => {
        const record = new PeerRecord(new SimClock())
        record.blame({ code: 'password-missing', text: 'secret bgp/gw has no key `pw`' })
        return record.cause
      },
      text: 'secret bgp/gw has no key `pw`',
    },
  ],
  'ttl-suspected': [
    {
      name: 'silence where hops are counted (RFC 5082 §3)',
      cause: () => dial('timeout', { ttlSecurity: 1 }),
      text: 'no answer on TCP 179 with ttlSecurity 1',
    },
    {
      name: 'TCP that comes up and ends',
      cause: () => over(lost, 'open-sent', { ttlSecurity: 2 }),
      text: 'connects, then closes with ttlSecurity 2',
    },
  ],
  'wrong-as': [
    {
      name: 'a number',
      cause: () => over(sent(code.open, openError.peerAs), 'open-sent', { remoteAs: 65001 }),
      text: 'says AS 65009, configured is 65001',
    },
    {
      name: 'a list',
      cause: () => over(sent(code.open, openError.peerAs), 'open-sent', { remoteAs: 65001, acceptAs: [65001, 65002] }),
      text: 'says AS 65009, configured is 65001 or 65002',
    },
    {
      name: 'any but ours',
      cause: () => over(sent(code.open, openError.peerAs), 'open-sent', { remoteAs: 0, acceptAs: 'external' }),
      text: 'says AS 65009, configured is any but 64512',
    },
    {
      name: 'ours',
      cause: () => over(sent(code.open, openError.peerAs), 'open-sent', { acceptAs: 'internal' }),
      text: 'says AS 65009, configured is 64512',
    },
  ],
  'our-as-refused': [
    {
      name: 'they say so',
      cause: () => over(received(code.open, openError.peerAs), 'open-sent', { localAs: 64999 }),
      text: 'refuses our AS 64999',
    },
  ],
  'open-rejected': [
    {
      name: 'by them, with its code',
      cause: () => over(received(code.open, openError.capability), 'open-sent'),
      text: 'refuses our OPEN: 2/7 OPEN error, unsupported capability',
    },
    {
      name: 'by us',
      cause: () => over(sent(code.open, openError.identifier, 'identifier is ours'), 'open-sent'),
      text: 'we refuse its OPEN: identifier is ours',
    },
    {
      name: 'a message out of place',
      cause: () => over(sent(code.fsm, 1, 'unexpected KEEPALIVE'), 'open-sent'),
      text: '5/1 FSM error, unexpected message in OpenSent: unexpected KEEPALIVE',
    },
  ],
  'unknown-there': [
    {
      name: 'connection rejected',
      cause: () => over(received(code.cease, cease.rejected), 'open-sent'),
      text: 'does not expect us: 6/5 Cease, connection rejected',
    },
    {
      name: 'taken out of its configuration',
      cause: () => over(received(code.cease, cease.deconfigured)),
      text: 'does not expect us: 6/3 Cease, peer de-configured',
    },
  ],
  'closed-early': [
    {
      name: 'before its OPEN',
      cause: () => over(lost, 'open-sent'),
      text: 'closes the connection before its OPEN: it does not expect us?',
    },
    {
      name: 'after its OPEN',
      cause: () => over(lost, 'open-confirm'),
      text: 'closes the connection after its OPEN, without a NOTIFICATION',
    },
  ],
  'hold-expired': [
    {
      name: 'here',
      cause: () => over(sent(code.hold, 0, 'hold timer expired: silent for 90 s')),
      text: 'hold timer expired: silent for 90 s',
    },
    { name: 'there', cause: () => over(received(code.hold)), text: 'says it heard nothing from us in time' },
    {
      name: 'it reads nothing (RFC 9687)',
      cause: () => over(sent(code.sendHold)),
      text: 'stopped reading from the connection',
    },
  ],
  'local-stall': [
    {
      name: 'our own fault',
      cause: () => causeOf(sent(code.hold), facts({}, { stalledMs: 41_230 })),
      text: 'we were too slow: our loop stood still for 41.2 s',
    },
  ],
  'bfd-down': [
    { name: 'here', cause: () => over(sent(code.cease, cease.bfdDown)), text: 'BFD went down' },
    { name: 'there', cause: () => over(received(code.cease, cease.bfdDown)), text: 'says BFD went down' },
  ],
  'bfd-waiting': [
    {
      name: 'strict',
      cause: () => {
        const bfd = { transmitMs: 300, receiveMs: 300, multiplier: 3, multihop: false, strict: true }
        return new PathGate(new SimClock(), bfd, () => {}).closed
      },
      text: 'waits for BFD, which is down (strict)',
    },
  ],
  'max-prefix': [
    {
      name: 'here',
      cause: () => over(sent(code.cease, cease.maxPrefixes, 'sent 11 IPv4 prefixes, the limit is 10')),
      text: 'sent 11 IPv4 prefixes, the limit is 10',
    },
    {
      name: 'there',
      cause: () => over(received(code.cease, cease.maxPrefixes)),
      text: 'says we sent too many prefixes',
    },
  ],
  'out-of-memory': [
    {
      name: 'here',
      cause: () => over(sent(code.cease, cease.resources, 'our table takes 65 MiB, the limit is 64'), 'open-sent'),
      text: 'our table takes 65 MiB, the limit is 64',
    },
  ],
  'update-error': [
    {
      name: 'theirs',
      cause: () => over(sent(code.update, 10, 'malformed prefix in the NLRI field')),
      text: 'sent a malformed UPDATE: malformed prefix in the NLRI field',
    },
    {
      name: 'ours, they say',
      cause: () => over(received(code.update, 11)),
      text: 'refuses an UPDATE of ours: 3/11 UPDATE error, malformed AS_PATH',
    },
  ],
  'peer-shutdown': [
    {
      name: 'with words (RFC 9003)',
      cause: () => over({ kind: 'received', received: shutdownNotification(cease.shutdown, 'kernel upgrade') }),
      text: 'shut down: "kernel upgrade"',
    },
    {
      name: 'without',
      cause: () => over(received(code.cease, cease.shutdown)),
      text: 'ended the session: 6/2 Cease, administrative shutdown',
    },
    {
      name: 'a hard reset with a reason inside (RFC 8538 §3)',
      cause: () => over({ kind: 'received', received: hardReset(shutdownNotification(cease.reset, 'move')) }),
      text: 'shut down: "move"',
    },
  ],
  'admin-down': [
    { name: 'stopped', cause: () => over({ kind: 'stopped' }), text: 'stopped here' },
    {
      name: 'by a NOTIFICATION with our words',
      cause: () => over(sent(code.cease, cease.shutdown, 'maintenance')),
      text: 'maintenance',
    },
  ],
  'passive-waiting': [
    { name: 'plainly', cause: () => waitsForPeer(peerConfig('10.0.0.2')), text: 'passive: waits for the peer to dial' },
    {
      name: 'what would silence its attempts is named',
      cause: () => waitsForPeer(peerConfig('10.0.0.2', { password: 'x', ttlSecurity: 1 })),
      text: 'passive: waits for the peer to dial, which must come with our password and ttlSecurity 1',
    },
  ],
  config: [
    {
      name: 'the source address is not here',
      cause: () => dial('no-source', { source: Ip.of('10.9.9.9') }),
      text: 'source address 10.9.9.9 is not ours: words of the kernel',
    },
  ],
}

for (const [wanted, list] of Object.entries(rows))
  describe(wanted, () => {
    for (const { name, cause, text } of list)
      test(name, () => expect(cause()).toEqual({ code: wanted as CauseCode, text }))
  })

const silent: readonly { readonly name: string; readonly why: DownReason }[] = [
  { name: 'a collision lost here', why: sent(code.cease, cease.collision) },
  { name: 'a collision lost there', why: received(code.cease, cease.collision) },
  { name: 'an attempt given up', why: { kind: 'abandoned' } },
]
for (const { name, why } of silent)
  test(`${name} is no cause: what was known stays`, () => expect(over(why)).toBe(undefined))

const histories: readonly { readonly why: DownReason; readonly words: string }[] = [
  { why: { kind: 'stopped' }, words: 'stopped here' },
  {
    why: { kind: 'stopped', sent: shutdownNotification(cease.shutdown, 'upgrade') },
    words: 'stopped here, sent 6/2 Cease, administrative shutdown "upgrade"',
  },
  { why: { kind: 'abandoned' }, words: 'given up quietly' },
  {
    why: sent(code.hold, 0, 'hold timer expired: silent for 90 s'),
    words: 'hold timer expired: silent for 90 s; sent 4/0 hold timer expired',
  },
  {
    why: { kind: 'received', received: shutdownNotification(cease.reset, 'new\u0007 line') },
    words: 'received 6/4 Cease, administrative reset "new\\u{7} line"',
  },
  { why: lost, words: 'TCP closed, no NOTIFICATION' },
  {
    why: { kind: 'tcp', reason: 'reset', message: 'read ECONNRESET' },
    words: 'TCP: read ECONNRESET',
  },
  { why: { kind: 'tcp', reason: 'timeout', message: '' }, words: 'TCP: timeout' },
  { why: { kind: 'unexpected', what: 'OPEN' }, words: 'unexpected: OPEN' },
]
for (const { why, words } of histories) test(`in the history: ${words}`, () => expect(describeDown(why)).toBe(words))
