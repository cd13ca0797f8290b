/**
 * The room's own metrics, by Calico's names so that published dashboards work (contract §8.2). Drivers count theirs.
 *
 * What Calico has as summaries are histograms here: their quantiles can be taken over several hosts.
 */

import type { Metrics } from '../lib/ports.ts'
import type { Changes, Graph } from './calc/graph.ts'

const seconds = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 1, 5]
/** A label's values are kept few. */
const mostRefused = 20
const sizes = [1, 3, 10, 30, 100, 300, 1_000, 10_000]

export class Meters {
  readonly #host
  readonly #resyncState
  readonly #resyncs
  readonly #updates
  readonly #updateTime
  readonly #outputs
  readonly #applyTime
  readonly #firstTime
  readonly #failures
  readonly #passes
  readonly #batch
  readonly #refused
  #refusedCount = 0
  readonly #counts: readonly {
    readonly of: (counts: ReturnType<Graph['counts']>) => number
    readonly gauge: ReturnType<Metrics['gauge']>
  }[]

  constructor(metrics: Metrics) {
    const gauge = metrics.gauge.bind(metrics)
    this.#host = gauge('felix_host', 'Configured host name (as a label), typically used for grouping.', ['host'])
    this.#resyncState = gauge('felix_resync_state', 'Current datastore state: 1 wait, 2 resync, 3 in sync.')
    this.#resyncs = metrics.counter('felix_resyncs_started', 'Number of times the datastore was read from the start.')
    this.#updates = metrics.counter('felix_calc_graph_updates_processed', 'Number of datastore updates processed.')
    this.#updateTime = metrics.histogram(
      'felix_calc_graph_update_time_seconds',
      'Time to take a batch of datastore updates into the graph.',
      seconds,
    )
    this.#outputs = metrics.counter(
      'felix_calc_graph_output_events',
      'Number of changes that the graph told the dataplane.',
    )
    this.#applyTime = metrics.histogram(
      'felix_int_dataplane_apply_time_seconds',
      'Time to apply a batch of changes to the kernel.',
      seconds,
    )
    this.#firstTime = gauge(
      'felix_int_dataplane_initial_resync_time_seconds',
      'Time from the start to the first pass that left nothing to do.',
    )
    this.#failures = metrics.counter(
      'felix_int_dataplane_failures',
      'Number of passes after which something was left to retry.',
    )
    this.#passes = metrics.counter('felix_int_dataplane_messages', 'Number of passes over the kernel.')
    this.#batch = metrics.histogram(
      'felix_int_dataplane_msg_batch_size',
      'Number of changes that one pass took.',
      sizes,
    )
    this.#refused = gauge('felix_kernel_refused', 'What the kernel refuses at present, by driver and name.', [
      'kind',
      'item',
    ])
    this.#counts = counted.map(([name, help, of]) => ({ of, gauge: gauge(name, help) }))
  }

  started(host: string, isSynced: boolean): void {
    this.#host.set(1, { host })
    this.#resyncState.set(isSynced ? 3 : 2)
    this.#resyncs.add()
  }

  synced(): void {
    this.#resyncState.set(3)
  }

  updated(count: number, tookMs: number): void {
    this.#updates.add(count)
    this.#updateTime.observe(tookMs / 1000)
  }

  took({ routes, endpoints, policy }: Changes): void {
    const members = policy.members.reduce((sum, { added, removed }) => sum + added.length + removed.length, 0)
    const maps = [routes, endpoints, policy.endpoints, policy.policies, policy.profiles, policy.sets]
    const count = maps.reduce((sum, { size }) => sum + size, members)
    this.#outputs.add(count)
    this.#batch.observe(count)
  }

  passed(tookMs: number, failed: boolean, counts: ReturnType<Graph['counts']>): void {
    this.#applyTime.observe(tookMs / 1000)
    this.#passes.add()
    if (failed) this.#failures.add()
    for (const { gauge, of } of this.#counts) gauge.set(of(counts))
  }

  /** Names the culprits; the first of them where there are many. */
  refused(failing: readonly { readonly kind: string; readonly item: string }[]): void {
    if (this.#refusedCount > 0) this.#refused.reset()
    this.#refusedCount = failing.length
    for (const { kind, item } of failing.slice(0, mostRefused)) this.#refused.set(1, { kind, item })
  }

  /** Once, when the kernel is what the store says for the first time. */
  settled(afterMs: number): void {
    this.#firstTime.set(afterMs / 1000)
  }
}

const counted: readonly (readonly [string, string, (counts: ReturnType<Graph['counts']>) => number])[] = [
  ['felix_active_local_endpoints', 'Number of endpoints on this host.', of => of.localEndpoints],
  [
    'felix_active_local_policies',
    'Number of policies that bind endpoints of this host.',
    of => of.policy.activePolicies,
  ],
  ['felix_active_local_selectors', 'Number of selectors that rules on this host name.', of => of.policy.selectors],
  ['felix_cluster_num_hosts', 'Number of hosts in the cluster.', of => of.hosts],
  ['felix_cluster_num_workload_endpoints', 'Number of endpoints in the cluster.', of => of.endpoints],
  ['felix_cluster_num_host_endpoints', 'Number of host endpoints in the cluster.', of => of.policy.hostEndpoints],
  ['felix_cluster_num_policies', 'Number of policies in the cluster, staged ones too.', of => of.policy.policies],
  ['felix_cluster_num_profiles', 'Number of profiles in the cluster.', of => of.policy.profiles],
  ['felix_cluster_num_tiers', 'Number of tiers in the cluster.', of => of.policy.tiers],
]
