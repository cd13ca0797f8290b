/**
 * Kubernetes' documents as Kubernetes describes them, for the naive reader only: what it looks at, and how labels select.
 */

import type { KubernetesDocument, KubernetesPeer, KubernetesPort, LabelSelector } from '../../src/model/index.ts'

export const namespaceLabel = 'projectcalico.org/namespace'

export type Labels = Readonly<Record<string, string>>

export interface KubernetesSpec {
  readonly podSelector?: LabelSelector
  readonly ingress?: readonly {
    readonly from?: readonly KubernetesPeer[]
    readonly ports?: readonly KubernetesPort[]
  }[]
  readonly egress?: readonly { readonly to?: readonly KubernetesPeer[]; readonly ports?: readonly KubernetesPort[] }[]
  readonly policyTypes?: readonly string[]
}

export interface KubernetesSlice extends KubernetesDocument {
  readonly metadata: { readonly name: string; readonly namespace: string; readonly labels: Labels }
  readonly endpoints: readonly { readonly addresses: readonly string[] }[]
  readonly ports: readonly { readonly protocol: string; readonly port: number | null }[] | null
}

export interface KubernetesService extends KubernetesDocument {
  readonly metadata: { readonly name: string; readonly namespace: string }
  readonly spec: {
    readonly selector?: Labels
    readonly ports: readonly {
      readonly protocol: string
      readonly port: number
      readonly targetPort?: number | string
    }[]
  }
}

export interface KubernetesSubject {
  readonly namespaces?: LabelSelector
  readonly pods?: { readonly namespaceSelector?: LabelSelector; readonly podSelector?: LabelSelector }
}

export interface KubernetesAdminPort {
  readonly portNumber?: { readonly protocol?: string; readonly port: number }
  readonly portRange?: { readonly protocol?: string; readonly start: number; readonly end: number }
  readonly namedPort?: string
}

export type KubernetesClusterProtocol = { readonly destinationNamedPort?: string } & Readonly<
  Partial<
    Record<
      'tcp' | 'udp' | 'sctp',
      {
        readonly destinationPort?: {
          readonly number?: number
          readonly range?: { readonly start: number; readonly end: number }
        }
      }
    >
  >
>

export interface KubernetesAdminRule {
  readonly action: 'Allow' | 'Accept' | 'Deny' | 'Pass'
  readonly from?: readonly (KubernetesSubject & { readonly networks?: undefined })[]
  readonly to?: readonly (KubernetesSubject & { readonly networks?: readonly string[] })[]
  readonly ports?: readonly KubernetesAdminPort[]
  readonly protocols?: readonly KubernetesClusterProtocol[]
}

export interface KubernetesAdminSpec {
  readonly tier?: 'Admin' | 'Baseline'
  readonly priority?: number
  readonly subject: KubernetesSubject
  readonly ingress?: readonly KubernetesAdminRule[]
  readonly egress?: readonly KubernetesAdminRule[]
}

export function hasLabels({ matchLabels = {}, matchExpressions = [] }: LabelSelector, labels: Labels): boolean {
  return (
    Object.entries(matchLabels).every(([label, value]) => labels[label] === value) &&
    matchExpressions.every(({ key, operator, values = [] }) => {
      const value = labels[key]
      switch (operator) {
        case 'In':
          return value !== undefined && values.includes(value)
        case 'NotIn':
          return value === undefined || !values.includes(value)
        case 'Exists':
          return value !== undefined
        case 'DoesNotExist':
          return value === undefined
      }
    })
  )
}

const numbers: Readonly<Record<string, number>> = { ICMP: 1, TCP: 6, UDP: 17, ICMPv6: 58, SCTP: 132, UDPLite: 136 }

export function number(protocol: string | number): number | undefined {
  return numbers[protocol] ?? Number(protocol)
}

export function stripped(prefix: string, labels: Labels): Labels {
  const own = Object.entries(labels).filter(([label]) => label.startsWith(prefix))
  return Object.fromEntries(own.map(([label, value]) => [label.slice(prefix.length), value]))
}
