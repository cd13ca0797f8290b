import { deepEqual, equal } from 'node:assert/strict'
import { describe, test } from 'vitest'
import { Block, blockFaults } from '../../src/ipam/index.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { decodeBlock, printJson } from '../../src/model/index.ts'
import type { AllocationBlock } from '../../src/model/index.ts'

const wall = Date.UTC(2026, 7, 22, 10, 0, 0)
const now = BigInt(wall) * 1_000_000n
const fresh = (cidr: string): Block => Block.fresh(Prefix.of(cidr), 'host:n1', now, wall)
const grant = (handle: string, attributes: Record<string, string> = { node: 'n1' }) => ({ handle, attributes })

const families = [
  { name: 'IPv4', cidr: '10.9.0.0/30', first: '10.9.0.0', third: '10.9.0.2', beyond: '10.9.0.4' },
  { name: 'IPv6', cidr: 'fd00::/126', first: 'fd00::', third: 'fd00::2', beyond: 'fd00::4' },
]

for (const f of families)
  describe(`a block, ${f.name}`, () => {
    test('is all free when new, and says who claimed it when', () => {
      deepEqual(fresh(f.cidr).value, {
        cidr: f.cidr,
        affinity: 'host:n1',
        affinity_claim_time: '2026-08-22T10:00:00Z',
        allocations: [null, null, null, null],
        unallocated: [0, 1, 2, 3],
        attributes: [],
        sequenceNumber: now,
        sequenceNumberForAllocation: {},
        deleted: false,
      })
    })

    test('gives from the head, takes back at the tail', () => {
      const { block, ordinals } = fresh(f.cidr).take(2, grant('h'))
      deepEqual(ordinals, [0, 1])
      const back = block.sealed().release([0])
      deepEqual(back.value.unallocated, [2, 3, 0])
      deepEqual(back.value.allocations, [null, 0, null, null])
      deepEqual(back.value.sequenceNumberForAllocation, { 1: now })
      equal(back.sequence, now + 1n)
    })

    test('knows its addresses by ordinal and the other way round', () => {
      const block = fresh(f.cidr)
      equal(block.ipAt(2).key, f.third)
      equal(block.ordinalOf(Ip.of(f.third)), 2)
      equal(block.ordinalOf(Ip.of(f.first)), 0)
      equal(block.ordinalOf(Ip.of(f.beyond)), undefined)
    })

    test('steps over what is kept, in place', () => {
      const { block, ordinals } = fresh(f.cidr).take(2, grant('h'), ordinal => ordinal === 0 || ordinal === 2)
      deepEqual(ordinals, [1, 3])
      deepEqual(block.value.unallocated, [0, 2])
      equal(block.freeCount(new Set([0])), 1)
    })

    test('a change leaves the value it was made from alone', () => {
      const block = fresh(f.cidr)
      const before = printJson(block.value)
      block.take(3, grant('h')).block.release([1])
      block.ownedBy(null, wall)
      equal(printJson(block.value), before)
    })
  })

test('equal grants share an entry, whatever the order of their attributes', () => {
  const one = fresh('10.9.0.0/29').take(1, grant('a', { node: 'n1', pod: 'p' })).block
  const two = one.take(1, grant('a', { pod: 'p', node: 'n1' })).block
  const three = two.take(1, grant('b', { pod: 'p', node: 'n1' })).block
  deepEqual(three.value.allocations.slice(0, 4), [0, 0, 1, null])
  equal(three.value.attributes.length, 2)
  deepEqual(
    [...three.handleCounts()],
    [
      ['a', 2],
      ['b', 1],
    ],
  )
})

test('attributes that nobody refers to go, the others close up', () => {
  let block = fresh('10.9.0.0/29')
  for (const handle of ['a', 'b', 'c']) block = block.take(1, grant(handle)).block
  block = block.release([1])
  deepEqual(block.value.allocations.slice(0, 3), [0, null, 1])
  deepEqual(
    block.value.attributes.map(({ handle_id }) => handle_id),
    ['a', 'c'],
  )
  deepEqual(blockFaults(block.value), [])
})

test('a block that comes back in the commit in which it went keeps what was freed behind what was free', () => {
  for (const cidr of ['10.9.0.0/30', 'fd00::/126']) {
    const gone = fresh(cidr).take(2, grant('a')).block.release([1])
    const back = Block.fresh(gone.cidr, 'host:n1', now, wall, gone)
    deepEqual(back.value.unallocated, [2, 3, 1, 0])
    deepEqual(blockFaults(back.value), [])
    equal(back.isEmpty, true)
  }
})

test('a named address is given once', () => {
  const block = fresh('10.9.0.0/29').takeOrdinal(5, grant('a'))!
  deepEqual(block.value.unallocated, [0, 1, 2, 3, 4, 6, 7])
  equal(block.takeOrdinal(5, grant('b')), undefined)
})

test('an address that cools down is nobody’s, counts as allocated, and is free when it is cold', () => {
  const given = fresh('10.9.0.0/30').take(2, grant('a')).block
  const cooling = given.release([0], '2026-08-22T10:00:00Z')
  equal(cooling.freeCount(), 2)
  equal(cooling.isEmpty, false)
  deepEqual([...cooling.handleCounts()], [['a', 1]])
  equal(cooling.allocationAt(0)?.handle, undefined)
  equal(cooling.swept(wall + 59_000, 60_000), cooling)
  const cold = cooling.swept(wall + 60_000, 60_000)
  deepEqual(cold.value.unallocated, [2, 3, 0])
  deepEqual(blockFaults(cold.value), [])
})

test('a block with nothing but a host’s own reservation is empty', () => {
  const reserved = fresh('10.9.0.0/29').take(3, grant('Windows-Reserved-IPAM-Handle', { note: 'host' })).block
  equal(reserved.isEmpty, true)
  equal(reserved.take(1, grant('a')).block.isEmpty, false)
})

// Records as three versions of Calico write them; each is changed here and must keep all it holds.
const foreign = [
  {
    name: 'v3.28: null handle, no claim time, a legacy owner field',
    text:
      '{"cidr":"10.9.0.0/30","affinity":"host:n1","allocations":[0,null,1,null],"unallocated":[1,3],' +
      '"attributes":[{"handle_id":null,"secondary":{"note":"by hand"}},{"handle_id":"k8s-pod-network.bb","secondary":null}],' +
      '"sequenceNumber":1787392800000000002,"sequenceNumberForAllocation":{"0":1787392800000000000,"2":1787392800000000001},"deleted":false}',
  },
  {
    name: 'v3.32: claim time, alternate owners, fields of a version to come',
    text:
      '{"cidr":"10.9.0.0/30","affinity":"host:n1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[0,null,null,null],' +
      '"unallocated":[1,2,3],"attributes":[{"handle_id":"h","secondary":{"node":"n1"},"alternateOwnerAttrs":{"vmi-name":"v"},"tint":[1]}],' +
      '"sequenceNumber":18446744073709551600,"sequenceNumberForAllocation":{"0":9007199254740993},"deleted":false,"shape":{"round":true}}',
  },
]
for (const f of foreign)
  test(`a record of ${f.name} keeps everything through a change`, () => {
    const decoded = decodeBlock(Prefix.of('10.9.0.0/30'), f.text)
    equal(decoded.ok, true)
    const block = Block.read((decoded as { value: AllocationBlock }).value)!
    const ordinal = block.value.unallocated[0]!
    const changed = block.takeOrdinal(ordinal, grant('new'))!
    const back = changed.release([ordinal])
    const { unallocated: moved, ...rest } = back.value
    const { unallocated: was, ...before } = block.value
    equal(printJson(rest), printJson(before))
    deepEqual(new Set(moved), new Set(was))
    equal(moved.length, was.length)
    equal(printJson(block.value), f.text)
  })

const damaged: { name: string; change: Partial<AllocationBlock>; want: RegExp }[] = [
  {
    name: 'free and allocated',
    change: { allocations: [0, null, null, null], attributes: [{}] },
    want: /both free and allocated/,
  },
  { name: 'neither', change: { unallocated: [0, 1, 2] }, want: /neither free nor allocated/ },
  { name: 'free twice', change: { unallocated: [0, 1, 2, 2] }, want: /free twice/ },
  { name: 'free out of range', change: { unallocated: [0, 1, 2, 4] }, want: /out of range/ },
  {
    name: 'attribute missing',
    change: { allocations: [1, null, null, null], unallocated: [1, 2, 3] },
    want: /does not exist/,
  },
  { name: 'attribute unused', change: { attributes: [{ handle_id: 'a' }] }, want: /not used/ },
  { name: 'too few ordinals', change: { allocations: [null] }, want: /1 allocations in a block of 4/ },
  { name: 'no block size', change: { cidr: '10.0.0.0/8' }, want: /no block size/ },
  { name: 'no prefix', change: { cidr: 'ten' }, want: /not a prefix/ },
]
for (const d of damaged)
  test(`a damaged record is no block: ${d.name}`, () => {
    const value = { ...fresh('10.9.0.0/30').value, ...d.change }
    equal(Block.read(value), undefined)
    equal(d.want.test(blockFaults(value)[0] ?? ''), true, blockFaults(value).join())
  })
