import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import type { CniConfig, CniRequest } from '../../src/app/cni.ts'
import { Pods, type AddressRequest, type PodOptions } from '../../src/app/pods.ts'
import type { Ip } from '../../src/lib/ip.ts'
import { PromMetrics } from '../../src/platform/metrics.ts'
import { Cluster, quiet } from '../ipam/cluster.ts'
import { SimKernel } from '../sim/kernel.ts'

const endpoints = '/calico/resources/v3/projectcalico.org/workloadendpoints/'
const folders: string[] = []

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true })
})

/** One host: a store with both families' pools, a kernel, and Pods over them. */
class Host {
  readonly cluster = new Cluster({ 'pods-v4': { cidr: '10.48.0.0/24' }, 'pods-v6': { cidr: 'fd00:48::/120' } })
  readonly kernel = new SimKernel({ links: [{ name: 'eth0' }] })
  readonly stateDir = mkdtempSync(join(tmpdir(), 'manx-pods-'))
  readonly pods: Pods

  constructor(options: Partial<PodOptions> = {}) {
    folders.push(this.stateDir)
    const store = this.cluster.store.client('pods')
    const ipam = this.cluster.ipam()
    this.pods = new Pods(
      {
        node: 'n1',
        interfacePrefix: 'cali',
        stateDir: this.stateDir,
        mtu: () => 1500,
        notReady: () => undefined,
        programmed: () => Promise.resolve(),
        ...options,
      },
      {
        store,
        kernel: this.kernel,
        clock: this.cluster.clock,
        log: quiet,
        metrics: new PromMetrics(),
        addresses: {
          assign: async (request: AddressRequest): Promise<readonly Ip[]> => {
            const { handle, attributes, given } = request
            if (given.length > 0) {
              await ipam.assignGiven({
                ip: given[0]!,
                handle,
                attributes,
                companions: () => ({ writes: request.record(given) }),
              })
              return given
            }
            const { ips4, ips6 } = await ipam.assign({
              handle,
              attributes,
              use: 'Workload',
              num4: request.want4 ? 1 : 0,
              num6: request.want6 ? 1 : 0,
              companions: ips => ({ writes: request.record([...ips.ips4, ...ips.ips6]) }),
            })
            return [...ips4, ...ips6]
          },
          release: async handle => (await ipam.releaseByHandle(handle)).found,
        },
      },
    )
  }

  records(): { key: string; value: { spec: Record<string, unknown>; metadata: { labels: Record<string, string> } } }[] {
    return this.cluster.store
      .list(endpoints)
      .map(({ key, value }) => ({ key: key.slice(endpoints.length), value: JSON.parse(value) as never }))
  }

  handles(): string[] {
    return Object.keys(this.cluster.under('handle/'))
  }

  links(): Promise<string[]> {
    return this.kernel.links().then(links => links.map(l => l.name).filter(name => name.startsWith('cali')))
  }
}

function ask(
  command: CniRequest['command'],
  containerId: string,
  config: Partial<CniConfig> = {},
  args: Record<string, string> = {},
): CniRequest {
  const ipam = { assign_ipv6: 'true' }
  return {
    command,
    containerId,
    netns: `/run/netns/${containerId}`,
    ifname: 'eth0',
    args,
    config: { cniVersion: '1.0.0', name: 'net', ipam, ...config },
  }
}

const k8s = (pod: string) => ({ K8S_POD_NAME: pod, K8S_POD_NAMESPACE: 'shop' })

async function ips(host: Host, request: CniRequest): Promise<string[]> {
  const answer = await host.pods.handle(request)
  if ('error' in answer) throw new Error(`${answer.error.code} ${answer.error.msg}`)
  return (answer.result as { ips: { address: string }[] }).ips.map(ip => ip.address)
}

describe('ADD', () => {
  test('gives an address of each family, a link and a record, in Calico’s names', async () => {
    const host = new Host()
    const labels = { args: { cni: { labels: [{ key: 'app', value: 'web' }] } } }
    const [v4, v6] = await ips(host, ask('ADD', 'abcdef123456789', labels))
    const again = await host.pods.handle(ask('ADD', 'abcdef123456789', labels))
    expect(v4).toMatch(/^10\.48\.0\.\d+\/32$/)
    expect(v6).toMatch(/^fd00:48::[0-9a-f]*\/128$/)
    const [record] = host.records()
    expect(record!.key).toBe('default/n1-cni-abcdef123456789-eth0')
    expect(record!.value.spec).toMatchObject({
      node: 'n1',
      containerID: 'abcdef123456789',
      ipNetworks: [v4, v6],
      interfaceName: 'caliabcdef12345',
      profiles: ['net'],
    })
    expect(record!.value.metadata.labels).toEqual({
      app: 'web',
      'projectcalico.org/namespace': 'default',
      'projectcalico.org/orchestrator': 'cni',
    })
    expect(await host.links()).toEqual(['caliabcdef12345'])
    expect(host.handles()).toEqual(['net.abcdef123456789'])
    const inside = { name: 'eth0', mac: record!.value.spec['mac'], sandbox: '/run/netns/abcdef123456789' }
    expect(again).toMatchObject({ result: { interfaces: [{ name: 'caliabcdef12345' }, inside] } })
  })

  test('repeated, it answers the same and assigns nothing more', async () => {
    const host = new Host()
    const first = await ips(host, ask('ADD', 'c1'))
    expect(await ips(host, ask('ADD', 'c1'))).toEqual(first)
    expect(host.handles()).toEqual(['net.c1'])
  })

  test('thirty at once get sixty distinct addresses', async () => {
    const host = new Host()
    const all = await Promise.all(Array.from({ length: 30 }, (_, i) => ips(host, ask('ADD', `c${i}`))))
    expect(new Set(all.flat()).size).toBe(60)
  })

  test('a named address is given, or refused while another has it', async () => {
    const host = new Host()
    expect(await ips(host, ask('ADD', 'c1', {}, { IP: '10.48.0.77' }))).toEqual(['10.48.0.77/32'])
    const answer = await host.pods.handle(ask('ADD', 'c2', {}, { IP: '10.48.0.77' }))
    expect(answer).toMatchObject({ error: { code: 102 } })
    expect(host.records().length).toBe(1)
  })

  for (const [name, broken] of Object.entries({
    'the kernel refuses the link': (host: Host) =>
      void host.kernel.refuse(call => call.op === 'attachPod', { times: 1 }),
    'the routes do not come': () => undefined,
  }))
    test(`leaves nothing behind when ${name}`, async () => {
      const host = new Host(
        name.startsWith('the routes') ? { programmed: () => Promise.reject(new Error('lacks its route')) } : {},
      )
      broken(host)
      expect(await host.pods.handle(ask('ADD', 'c1'))).toMatchObject({ error: {} })
      expect({ records: host.records().length, handles: host.handles(), links: await host.links() }).toEqual({
        records: 0,
        handles: [],
        links: [],
      })
    })

  test('waits while the agent cannot serve', async () => {
    const host = new Host({ notReady: () => 'store is locked' })
    expect(await host.pods.handle(ask('ADD', 'c1'))).toEqual({
      error: { code: 11, msg: 'agent is not ready, try again', details: 'store is locked' },
    })
    expect(await host.pods.handle(ask('STATUS', ''))).toMatchObject({ error: { code: 50 } })
    expect(host.records()).toEqual([])
  })

  test('a full pool is code 100 and names the pool', async () => {
    const host = new Host()
    const tiny = { ipam: { assign_ipv4: 'true', assign_ipv6: 'false' } }
    for (let i = 0; i < 256; i++) await host.pods.handle(ask('ADD', `c${i}`, tiny))
    const answer = await host.pods.handle(ask('ADD', 'one-more', tiny))
    expect(answer).toMatchObject({ error: { code: 100, msg: expect.stringContaining('pods-v4') as string } })
  })
})

describe('DEL', () => {
  test('gives everything back, and again without complaint', async () => {
    const host = new Host()
    await ips(host, ask('ADD', 'c1'))
    for (let i = 0; i < 2; i++) expect(await host.pods.handle(ask('DEL', 'c1'))).toEqual({ result: {} })
    expect({ records: host.records().length, handles: host.handles(), links: await host.links() }).toEqual({
      records: 0,
      handles: [],
      links: [],
    })
  })

  test('without a record the handle finds the addresses', async () => {
    const host = new Host()
    await ips(host, ask('ADD', 'c1'))
    for (const { key } of host.records()) host.cluster.store.delete(endpoints + key)
    expect(await host.pods.handle(ask('DEL', 'c1'))).toEqual({ result: {} })
    expect(host.handles()).toEqual([])
  })

  test('of an older sandbox leaves the record and link of the newer one', async () => {
    const host = new Host()
    await ips(host, ask('ADD', 'old', {}, k8s('web')))
    const now = await ips(host, { ...ask('ADD', 'young', {}, k8s('web')), netns: '/run/netns/old' })
    expect(host.records()).toMatchObject([
      { key: 'shop/n1-k8s-web-eth0', value: { spec: { containerID: 'young', ipNetworks: now } } },
    ])
    expect(await host.pods.handle(ask('DEL', 'old', {}, k8s('web')))).toEqual({ result: {} })
    expect(host.records().length).toBe(1)
    expect((await host.links()).length).toBe(1)
    expect(host.handles()).toEqual(['net.young'])
  })

  test('written down while the agent was away, it is applied and forgotten', async () => {
    const host = new Host()
    await ips(host, ask('ADD', 'c1'))
    const folder = join(host.stateDir, 'cni-journal')
    mkdirSync(folder)
    writeFileSync(join(folder, 'c1-eth0.json'), JSON.stringify(ask('DEL', 'c1')))
    writeFileSync(join(folder, 'half.json'), '{')
    await host.pods.applyJournal()
    expect(readdirSync(folder)).toEqual(['half.json'])
    expect(host.records()).toEqual([])
  })
})

describe('CHECK', () => {
  test('passes on what ADD left, and says what is gone', async () => {
    const host = new Host()
    const [v4] = await ips(host, ask('ADD', 'c1'))
    const check = (prevIps: string[]) =>
      host.pods.handle(ask('CHECK', 'c1', { prevResult: { ips: prevIps.map(address => ({ address })) } }))
    expect(await check([v4!])).toEqual({ result: {} })
    expect(await check(['10.48.0.250/32'])).toMatchObject({
      error: { code: 100, msg: expect.stringContaining('10.48.0.250/32') as string },
    })
    host.kernel.removeLink('calic1')
    expect(await check([v4!])).toMatchObject({ error: { code: 100, msg: 'interface calic1 is gone' } })
    expect(await host.pods.handle(ask('CHECK', 'c9'))).toMatchObject({ error: { code: 100 } })
  })
})

test('GC deletes what the runtime no longer knows', async () => {
  const host = new Host()
  for (const id of ['c1', 'c2', 'c3']) await ips(host, ask('ADD', id))
  const valid = [{ containerID: 'c2', ifname: 'eth0' }]
  expect(await host.pods.handle(ask('GC', '', { 'cni.dev/valid-attachments': valid }))).toEqual({ result: {} })
  expect(host.handles()).toEqual(['net.c2'])
  expect(host.records().map(r => r.key)).toEqual(['default/n1-cni-c2-eth0'])
})
