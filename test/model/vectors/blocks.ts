/**
 * Stored IPAM records in the forms of several releases.
 *
 * Origin: written by hand after the JSON tags and the release notes in calico-contract.md §1.4 (which lists what each
 * release added), not captured from a running cluster. /30 blocks keep them readable; the /29 shows two families.
 */

/** v3.28: absent handles print as null, no claim time, `deleted` printed. */
export const blockV328 =
  '{"cidr":"10.9.0.0/30","affinity":"host:n1","allocations":[0,null,1,null],"unallocated":[1,3],' +
  '"attributes":[{"handle_id":"k8s-pod-network.aa","secondary":{"namespace":"d","node":"n1","pod":"p",' +
  '"timestamp":"2024-05-22 10:00:00.1 +0000 UTC"}},{"handle_id":null,"secondary":{"node":"n1","type":"ipipTunnelAddress"}}],' +
  '"sequenceNumber":1716372000000000002,"sequenceNumberForAllocation":{"0":1716372000000000000,"2":1716372000000000001},' +
  '"deleted":false}'

/** v3.31: as before; a block of the load balancer, whose owner is virtual. */
export const blockV331 =
  '{"cidr":"10.9.1.0/30","affinity":"virtual:load-balancer","allocations":[null,0,null,null],"unallocated":[0,2,3],' +
  '"attributes":[{"handle_id":"lb-0f3c","secondary":{"namespace":"shop","service":"web","timestamp":"2025-11-02 08:00:00 +0000 UTC"}}],' +
  '"sequenceNumber":1762070400123456789,"sequenceNumberForAllocation":{"1":1762070400123456788},"deleted":false}'

/** v3.32: claim time, handles left out when absent, a second owner's attributes. IPv6. */
export const blockV332 =
  '{"cidr":"fd00:9::8/126","affinity":"host:n-2","affinity_claim_time":"2026-08-22T10:00:00Z",' +
  '"allocations":[0,1,null,null],"unallocated":[3,2],' +
  '"attributes":[{"secondary":{"node":"n-2","type":"vxlanV6TunnelAddress"}},' +
  '{"handle_id":"k8s-pod-network.shop-vm1","secondary":{"node":"n-2","vmi-name":"vm1"},"alternateOwnerAttrs":{"node":"n-3"}}],' +
  '"sequenceNumber":1787392800000000002,"sequenceNumberForAllocation":{"0":1787392800000000000,"1":1787392800000000001},' +
  '"deleted":false}'

/** After v3.32: an address that cools down, and a field that does not exist yet. */
export const blockNewer =
  '{"cidr":"10.9.2.0/30","affinity":"host:n1","affinity_claim_time":"2027-01-05T00:00:00Z","allocations":[0,null,null,null],' +
  '"unallocated":[1,2,3],"attributes":[{"handle_id":"k8s-pod-network.cc","releasedAt":"2027-01-05T00:00:10Z"}],' +
  '"sequenceNumber":18446744073709551615,"sequenceNumberForAllocation":{},"deleted":false,"futureField":{"big":9007199254740993}}'

/** Before `affinity`: the owner by itself. Ownerless lists as null, as Go prints a list that was never made. */
export const blockAncient =
  '{"cidr":"10.9.3.0/30","hostAffinity":"n1","strictAffinity":false,"allocations":[null,null,null,null],' +
  '"unallocated":[0,1,2,3],"attributes":null}'

/**
 * Policies as the three generations store them (contract §1.6): key, value, and the name their user gave.
 * v3.29 prefixed the default tier; v3.30 and v3.31 prefixed and annotated; v3.32 writes the plain name.
 */
export const storedPolicies = [
  {
    release: 'v3.28',
    key: 'networkpolicies/shop/default.allow-web',
    value:
      '{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"default.allow-web","namespace":"shop",' +
      '"uid":"6a1a2f0e-0000-4000-8000-000000000001","creationTimestamp":"2024-05-22T10:00:00Z"},' +
      '"spec":{"selector":"app == \\"web\\"","types":["Ingress"]}}',
    name: 'allow-web',
    tier: 'default',
  },
  {
    release: 'v3.31',
    key: 'networkpolicies/shop/default.allow-web',
    value:
      '{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"default.allow-web","namespace":"shop",' +
      '"uid":"6a1a2f0e-0000-4000-8000-000000000001","creationTimestamp":"2025-11-02T10:00:00Z",' +
      '"labels":{"projectcalico.org/tier":"default"},"annotations":{"projectcalico.org/metadata":"{\\"name\\":\\"default.allow-web\\"}","mine":"kept"}},' +
      '"spec":{"tier":"default","selector":"app == \\"web\\"","types":["Ingress"]}}',
    name: 'default.allow-web',
    tier: 'default',
  },
  {
    release: 'v3.31, another tier',
    key: 'networkpolicies/shop/platform.allow-dns',
    value:
      '{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"platform.allow-dns","namespace":"shop",' +
      '"labels":{"projectcalico.org/tier":"platform"},"annotations":{"projectcalico.org/metadata":"{\\"name\\":\\"platform.allow-dns\\"}"}},' +
      '"spec":{"tier":"platform","types":["Ingress"]}}',
    name: 'platform.allow-dns',
    tier: 'platform',
  },
  {
    release: 'v3.32',
    key: 'networkpolicies/shop/allow-web',
    value:
      '{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"allow-web","namespace":"shop",' +
      '"labels":{"projectcalico.org/tier":"default"},"annotations":{"projectcalico.org/metadata":"{\\"name\\":\\"allow-web\\"}"}},' +
      '"spec":{"tier":"default","types":["Ingress"]}}',
    name: 'allow-web',
    tier: 'default',
  },
  {
    release: 'made of a Kubernetes policy',
    key: 'networkpolicies/shop/knp.default.deny',
    value:
      '{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"knp.default.deny","namespace":"shop"},' +
      '"spec":{"types":["Ingress"]}}',
    name: 'knp.default.deny',
    tier: 'default',
  },
] as const

/** A Node as calico/node v3.31 writes it, with a field this code has no name for. */
export const storedNode =
  '{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1","uid":"6a1a2f0e-0000-4000-8000-00000000000a",' +
  '"creationTimestamp":"2025-11-02T10:00:00Z","labels":{"rack":"r1"},"managedBy":"x"},' +
  '"spec":{"bgp":{"ipv4Address":"10.0.0.11/24","asNumber":"64513"},"ipv4VXLANTunnelAddr":"10.48.0.1","somethingNew":{"a":[1,null]}},' +
  '"status":{"podCIDRs":null},"extra":12345678901234567890}'
