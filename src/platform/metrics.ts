/**
 * The metrics registry: families by their Prometheus names, printed as text format 0.0.4.
 *
 * Text 0.0.4 and not OpenMetrics, which would add `_total` to Calico's counters and break its dashboards. A family is
 * declared where it is counted; declaring it again returns the first, so that two owners may share one. Declaring it as
 * something else, or with other labels, is a bug.
 */

import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'
import { invariant } from '../lib/errors.ts'
import type { Labels, Metrics } from '../lib/ports.ts'

export interface MetricsOptions {
  /** Also the process's own: CPU, memory, event loop delay, garbage collection. */
  readonly ofProcess?: boolean
}

interface Family {
  readonly shape: string
  readonly metric: Counter | Gauge | Histogram
}

export class PromMetrics implements Metrics {
  readonly #registry = new Registry()
  readonly #families = new Map<string, Family>()

  constructor(options: MetricsOptions = {}) {
    if (options.ofProcess) collectDefaultMetrics({ register: this.#registry })
  }

  /** The value of Content-Type that goes with `text`. */
  get contentType(): string {
    return this.#registry.contentType
  }

  /** All families in text format 0.0.4. */
  text(): Promise<string> {
    return this.#registry.metrics()
  }

  counter(name: string, help: string, labels: readonly string[] = []) {
    const metric = this.#family(name, `counter ${labels.join()}`, Counter, config => new Counter(config), help, labels)
    return { add: (value = 1, on: Labels = {}) => metric.inc(on, value) }
  }

  gauge(name: string, help: string, labels: readonly string[] = []) {
    const metric = this.#family(name, `gauge ${labels.join()}`, Gauge, config => new Gauge(config), help, labels)
    return {
      set: (value: number, on: Labels = {}) => metric.set(on, value),
      remove: (on: Labels) => metric.remove(on),
      reset: () => metric.reset(),
    }
  }

  histogram(name: string, help: string, buckets: readonly number[], labels: readonly string[] = []) {
    const shape = `histogram ${labels.join()} ${buckets.join()}`
    const make = (config: FamilyConfig) => new Histogram({ ...config, buckets: [...buckets] })
    const metric = this.#family(name, shape, Histogram, make, help, labels)
    return { observe: (value: number, on: Labels = {}) => metric.observe(on, value) }
  }

  #family<M extends Counter | Gauge | Histogram>(
    name: string,
    shape: string,
    kind: new (config: FamilyConfig & { buckets?: number[] }) => M,
    make: (config: FamilyConfig) => M,
    help: string,
    labels: readonly string[],
  ): M {
    const known = this.#families.get(name)
    if (known) {
      invariant(known.shape === shape && known.metric instanceof kind, `metric ${name} is ${known.shape}, not ${shape}`)
      return known.metric
    }
    const metric = make({ name, help, labelNames: [...labels], registers: [this.#registry] })
    this.#families.set(name, { shape, metric })
    return metric
  }
}

interface FamilyConfig {
  readonly name: string
  readonly help: string
  readonly labelNames: string[]
  readonly registers: Registry[]
}
