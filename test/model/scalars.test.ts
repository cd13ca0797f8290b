import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  nearest,
  parseAsNumber,
  parseCommunity,
  parseDuration,
  parsePeerIp,
  parsePort,
  parseProtocol,
  parseStamp,
  printDuration,
  printStamp,
} from '../../src/model/index.ts'

const asNumbers: [unknown, number | undefined][] = [
  [64512, 64512],
  ['64512', 64512],
  ['1.10', 65546],
  ['65535.65535', 4294967295],
  [0, 0],
  [4294967295, 4294967295],
  [4294967296, undefined],
  ['4294967296', undefined],
  ['65536.0', undefined],
  [-1, undefined],
  [1.5, undefined],
  ['', undefined],
  ['AS1', undefined],
  [undefined, undefined],
]
describe('AS numbers', () => {
  for (const [text, want] of asNumbers)
    test(`${typeof text} ${String(text)}`, () => expect(parseAsNumber(text)).toBe(want))
})

const durations: [string, number | undefined][] = [
  ['1m30s', 90_000],
  ['90s', 90_000],
  ['0s', 0],
  ['0', 0],
  ['1h', 3_600_000],
  ['1.5h', 5_400_000],
  ['100ms', 100],
  ['.5s', 500],
  ['-1s', -1000],
  ['1us', 0.001],
  ['90', undefined],
  ['', undefined],
  ['1d', undefined],
  ['1m 30s', undefined],
  ['s', undefined],
]
describe('durations', () => {
  for (const [text, want] of durations) test(`\`${text}\``, () => expect(parseDuration(text)).toBe(want))
  test('what is printed reads back', () =>
    fc.assert(
      fc.property(fc.integer({ min: -1e10, max: 1e10 }), ms => {
        expect(parseDuration(printDuration(ms))).toBeCloseTo(ms, 3)
      }),
    ))
  test('as Go prints them', () =>
    expect([0, 500, 90_000, 3_600_000, 5000].map(printDuration)).toEqual(['0s', '500ms', '1m30s', '1h0m0s', '5s']))
})

describe('stamps', () => {
  test('agree with the calendar of the machine', () =>
    fc.assert(
      fc.property(fc.integer({ min: -2_000_000_000, max: 250_000_000_000 }), seconds => {
        const stamp = new Date(seconds * 1000).toISOString().replace('.000Z', 'Z')
        expect(printStamp(seconds * 1000)).toBe(stamp)
        expect(parseStamp(stamp)).toBe(seconds * 1000)
      }),
    ))
  const stamps: [string, number | undefined][] = [
    ['2026-08-22T10:00:00Z', Date.UTC(2026, 7, 22, 10)],
    ['2026-08-22T10:00:00.123456789Z', Date.UTC(2026, 7, 22, 10) + 123],
    ['2026-08-22T12:30:00+02:30', Date.UTC(2026, 7, 22, 10)],
    ['2024-02-29T00:00:00Z', Date.UTC(2024, 1, 29)],
    ['2023-02-29T00:00:00Z', undefined],
    ['2026-13-01T00:00:00Z', undefined],
    ['2026-01-01', undefined],
    ['yesterday', undefined],
  ]
  for (const [text, want] of stamps) test(text, () => expect(parseStamp(text)).toBe(want))
})

describe('protocols and ports', () => {
  const protocols: [unknown, string | number | undefined][] = [
    ['tcp', 'TCP'],
    ['icmpv6', 'ICMPv6'],
    ['UDPLITE', 'UDPLite'],
    [6, 6],
    ['17', 17],
    [0, undefined],
    [256, undefined],
    ['GRE', undefined],
  ]
  for (const [text, want] of protocols) test(`protocol ${String(text)}`, () => expect(parseProtocol(text)).toBe(want))

  const ports: [unknown, unknown][] = [
    [80, { kind: 'range', min: 80, max: 80 }],
    ['80', { kind: 'range', min: 80, max: 80 }],
    ['80:90', { kind: 'range', min: 80, max: 90 }],
    ['http', { kind: 'name', name: 'http' }],
    ['80-90', { kind: 'name', name: '80-90' }],
    ['90:80', undefined],
    [65536, undefined],
    ['a b', undefined],
    [1.5, undefined],
  ]
  for (const [text, want] of ports) test(`port ${String(text)}`, () => expect(parsePort(text)).toEqual(want))

  const peers: [string, string | undefined][] = [
    ['10.0.0.1', '10.0.0.1'],
    ['10.0.0.1:1790', '10.0.0.1 1790'],
    ['fd00::1', 'fd00::1'],
    ['[fd00::1]:179', 'fd00::1 179'],
    ['[fd00::1]', 'fd00::1'],
    ['[10.0.0.1]:179', undefined],
    ['10.0.0.1:0', undefined],
    ['10.0.0.1:70000', undefined],
    ['host', undefined],
  ]
  for (const [text, want] of peers)
    test(`peer ${text}`, () => {
      const peer = parsePeerIp(text)
      expect(peer && [peer.ip.key, peer.port].filter(part => part !== undefined).join(' ')).toBe(want)
    })

  const communities: [string, readonly number[] | undefined][] = [
    ['65000:1', [65000, 1]],
    ['4200000000:1:2', [4200000000, 1, 2]],
    ['65536:1', undefined],
    ['1:2:4294967296', undefined],
    ['1', undefined],
    ['a:b', undefined],
  ]
  for (const [text, want] of communities) test(`community ${text}`, () => expect(parseCommunity(text)).toEqual(want))
})

const words: [string, readonly string[], string | undefined][] = [
  ['blocksize', ['cidr', 'blockSize'], 'blockSize'],
  ['IPpool', ['IPPool', 'BGPPeer'], 'IPPool'],
  ['nodeSelctor', ['nodeSelector', 'namespaceSelector'], 'nodeSelector'],
  ['cdir', ['cidr'], 'cidr'],
  ['zebra', ['cidr', 'blockSize'], undefined],
  ['x', ['cidr'], undefined],
]
describe('did you mean', () => {
  for (const [word, candidates, want] of words) test(`${word}`, () => expect(nearest(word, candidates)).toBe(want))
})
