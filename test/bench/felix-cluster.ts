/**
 * The cluster of felix's bench, and the changes that the bench makes to it, as the store would deliver them.
 *
 * Every policy binds pods of this host: pods, endpoints elsewhere and policies are spread evenly over `apps` labels, and
 * each policy lets in the pods of one other label. So a pod has `policies / apps` policies, and a set `endpoints / apps`
 * members. One policy more names a label that all endpoints inherit from their namespace, and none has at first.
 */

import type { ResourceUpdate, Update } from '../../src/model/index.ts'
import { node, noPod, pod, pool } from '../felix/records.ts'

export interface ClusterSize {
  readonly policies: number
  /** Pods of other hosts. */
  readonly endpoints: number
  /** Pods of this host. */
  readonly pods: number
}

const apps = 250

export function linkOf(i: number): string {
  return `cali${i.toString(16)}`
}

/** The first pod of this host: it answers the one that comes. */
export const answering = { link: linkOf(0), ip: '10.200.0.0' }
export const coming = { ip: '10.201.0.1', name: 'coming' }

export function cluster({ policies, endpoints, pods }: ClusterSize): Update[] {
  const far = Array.from({ length: endpoints }, (_, i) =>
    endpoint(`r${i}`, `10.${1 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`, `app${i % apps}`),
  )
  const near = Array.from({ length: pods }, (_, i) =>
    endpoint(`l${i}`, `10.200.${i >> 8}.${i & 255}`, `app${i % apps}`, linkOf(i)),
  )
  const bound = Array.from({ length: policies }, (_, i) => policy(i))
  return [pool('v4', '10.0.0.0/8'), node('node-a', '172.16.0.1/24'), namespace('a'), ...far, ...near, ...bound, wide()]
}

/** A pod of this host comes; it may be reached by the one that answers it, and the other way round. */
export function comes(pods: number): Update {
  return endpoint(coming.name, coming.ip, 'free', linkOf(pods))
}

export function goes(): Update {
  return noPod(coming.name)
}

/** All endpoints inherit this label: one change moves every one of them into, or out of, the set of `wide`. */
export function namespace(team: 'a' | 'b'): Update {
  const rules = [{ action: 'Allow' }]
  return resource('Profile', 'kns.default', { labelsToApply: { 'pcns.team': team }, ingress: rules, egress: rules })
}

export function policy(i: number, port = 80): Update {
  const source = { selector: `app == 'app${(i * 7) % apps}'` }
  const rule = { action: 'Allow', protocol: 'TCP', source, destination: { ports: [port, 443] } }
  const spec = { selector: `app == 'app${i % apps}'`, types: ['Ingress'], ingress: [rule] }
  return resource('NetworkPolicy', `p${i}`, spec, 'default')
}

export function elsewhere(i: number, comesOrGoes: 'comes' | 'goes'): Update {
  return comesOrGoes === 'goes' ? noPod(`far${i}`) : endpoint(`far${i}`, '10.202.0.1', 'app7')
}

/** First in order, so that it also lets the pod that comes reach the one that answers. */
function wide(): Update {
  const ingress = [
    { action: 'Allow', source: { namespaceSelector: "team == 'b'" } },
    { action: 'Allow', protocol: 'ICMP' },
    { action: 'Pass' },
  ]
  return resource('GlobalNetworkPolicy', 'wide', { selector: 'all()', order: 1, types: ['Ingress'], ingress })
}

function endpoint(name: string, ip: string, app: string, link?: string): Update {
  const of = {
    ips: [ip],
    ...(link === undefined ? { node: 'elsewhere' } : { link }),
    spec: { profiles: ['kns.default'] },
  }
  const update = pod(name, of) as Extract<Update, { kind: 'WorkloadEndpoint' }>
  const value = update.value!
  return { ...update, value: { ...value, metadata: { ...value.metadata, labels: { app } } } }
}

function resource(kind: string, name: string, spec: unknown, inNamespace?: string): Update {
  const metadata = { name, ...(inNamespace ? { namespace: inNamespace } : {}) }
  return {
    kind,
    name,
    revision: 1,
    value: { kind, apiVersion: '', metadata, spec },
    ...(inNamespace ? { namespace: inNamespace } : {}),
  } as unknown as ResourceUpdate
}
