/**
 * IPAM records as releases of Calico store them (contract §1.4), each with what is special about it.
 *
 * The texts follow the Go types of the tag named: order of fields, what is printed as null, what is left out. Unknown
 * fields stand for what a later release may add.
 */

export interface StoredBlock {
  readonly name: string
  readonly origin: string
  readonly cidr: string
  readonly text: string
  /** Ordinals that are free, in the order in which they are given out. */
  readonly free: readonly number[]
  /** An address that is in use, its handle, and the sequence number it was given under. */
  readonly used: {
    readonly ordinal: number
    readonly handle: string | undefined
    readonly sequence: bigint | undefined
  }
}

export const storedBlocks: readonly StoredBlock[] = [
  {
    name: 'v3.28: null handle, no claim time',
    origin: 'Calico v3.28 libcalico-go/lib/backend/model/block.go: handle_id is a pointer without omitempty',
    cidr: '10.9.0.0/30',
    text:
      '{"cidr":"10.9.0.0/30","affinity":"host:n1","allocations":[0,null,1,null],"unallocated":[3,1],' +
      '"attributes":[{"handle_id":null,"secondary":{"node":"n1","note":"reserved by hand"}},' +
      '{"handle_id":"k8s-pod-network.bb","secondary":{"namespace":"d","node":"n1","pod":"p","timestamp":"2024-05-22 10:00:00.1 +0000 UTC"}}],' +
      '"sequenceNumber":1716372000000000002,"sequenceNumberForAllocation":{"0":1716372000000000000,"2":1716372000000000001},"deleted":false}',
    free: [3, 1],
    used: { ordinal: 2, handle: 'k8s-pod-network.bb', sequence: 1716372000000000001n },
  },
  {
    name: 'v3.31: null owner attributes, handle with a carriage return',
    origin: 'Calico v3.31 block.go: secondary may be null; ids are compared up to the first \\r',
    cidr: '10.9.0.4/30',
    text:
      '{"cidr":"10.9.0.4/30","affinity":"host:n1","allocations":[0,1,null,null],"unallocated":[2,3],' +
      '"attributes":[{"handle_id":"h1","secondary":null},{"handle_id":"k8s-pod-network.cc\\rgarbage","secondary":{"node":"n1"}}],' +
      '"sequenceNumber":1755856800000000009,"sequenceNumberForAllocation":{"0":1755856800000000003,"1":1755856800000000008},"deleted":false}',
    free: [2, 3],
    used: { ordinal: 1, handle: 'k8s-pod-network.cc', sequence: 1755856800000000008n },
  },
  {
    name: 'v3.32: claim time, second owner, unknown fields everywhere',
    origin: 'Calico v3.32 block.go: affinity_claim_time, alternateOwnerAttrs; the rest is made up',
    cidr: '10.9.0.8/30',
    text:
      '{"cidr":"10.9.0.8/30","affinity":"host:n1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[0,null,null,1],' +
      '"unallocated":[1,2],"attributes":[{"handle_id":"k8s-pod-network.dd","secondary":{"node":"n1","vmi-name":"vm"},' +
      '"alternateOwnerAttrs":{"node":"n2","vmim-uid":"7"},"futureField":{"deep":[1,18446744073709551615]}},' +
      '{"secondary":{"node":"n1"}}],"sequenceNumber":1787392800000000002,' +
      '"sequenceNumberForAllocation":{"0":1787392800000000000,"3":1787392800000000001},"deleted":false,' +
      '"futureCounter":18446744073709551615,"futureFlag":true}',
    free: [1, 2],
    used: { ordinal: 0, handle: 'k8s-pod-network.dd', sequence: 1787392800000000000n },
  },
  {
    name: 'an old block: no sequence numbers for its addresses, legacy owner',
    origin: 'Calico before v3.24: sequenceNumberForAllocation absent, hostAffinity read only',
    cidr: '10.9.0.12/30',
    text:
      '{"cidr":"10.9.0.12/30","affinity":"host:n1","hostAffinity":"n1","futureField":[1],"allocations":[null,0,null,null],"unallocated":[0,2,3],' +
      '"attributes":[{"handle_id":"old.ee","secondary":{"node":"n1"}}],"deleted":false}',
    free: [0, 2, 3],
    used: { ordinal: 1, handle: 'old.ee', sequence: undefined },
  },
  {
    name: 'v3.32, IPv6',
    origin: 'Calico v3.32 block.go',
    cidr: 'fd00:9::/126',
    text:
      '{"cidr":"fd00:9::/126","affinity":"host:n1","affinity_claim_time":"2026-08-22T10:00:00Z","allocations":[null,null,0,null],' +
      '"unallocated":[3,0,1],"attributes":[{"handle_id":"k8s-pod-network.ff","secondary":{"node":"n1"}}],' +
      '"sequenceNumber":1787392800000000005,"sequenceNumberForAllocation":{"2":1787392800000000004},"deleted":false}',
    free: [3, 0, 1],
    used: { ordinal: 2, handle: 'k8s-pod-network.ff', sequence: 1787392800000000004n },
  },
]

/** Affinities: text, and whether it stands for a confirmed claim. */
export const storedAffinities: readonly { readonly name: string; readonly text: string }[] = [
  { name: 'v3.28 to v3.32', text: '{"state":"confirmed","deleted":false}' },
  { name: 'old: empty value', text: '' },
  { name: 'old: empty state', text: '{"state":"","deleted":false}' },
  { name: 'unknown field', text: '{"state":"confirmed","deleted":false,"futureField":"kept"}' },
]

/** Settings: each in a form that some release prints. */
export const storedSettings = {
  'v3.28': '{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4}',
  'v3.32': '{"auto_allocate_blocks":true,"kubeVirtVMAddressPersistence":"Enabled"}',
  later:
    '{"strict_affinity":true,"auto_allocate_blocks":true,"ipCooldownSeconds":60,"futureSetting":{"a":18446744073709551615}}',
} as const
