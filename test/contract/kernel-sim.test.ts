/** The simulated kernel keeps the contract. */

import { SimKernel } from '../sim/kernel.ts'
import { Ip, Prefix } from '../../src/lib/ip.ts'
import { kernelContract } from './kernel.ts'

kernelContract(async () => {
  const kernel = new SimKernel()
  return {
    kernel,
    device: async (name, addresses) => void kernel.addLink(name, { kind: 'veth', addresses }),
    removeDevice: async name => kernel.removeLink(name),
    namespace: async name => `/sim/netns/${name}`,
    foreignRoute: async ({ prefix, via, device, protocol, metric }) =>
      kernel.editRoute({
        kind: 'set',
        route: {
          prefix: Prefix.of(prefix),
          kind: 'unicast',
          table: 254,
          protocol,
          metric,
          nextHops: [{ ...(via ? { via: Ip.of(via) } : {}), link: kernel.linkNow(device)!.index }],
        },
      }),
    foreignRules: async (family, script) => kernel.editTable(family, script),
    until: async done => {
      for (let i = 0; i < 1000 && !done(); i++) await Promise.resolve()
      if (!done()) throw new Error('it never came')
    },
    close: async () => undefined,
  }
})
