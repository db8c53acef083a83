package metrics

import (
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Registry is the metrics of one program. Safe for concurrent use.
type Registry struct {
	prom *prometheus.Registry

	mu  sync.Mutex // guards fss
	fss []*FS
}

// New returns a registry without a file system.
func New() *Registry {
	r := &Registry{prom: prometheus.NewPedanticRegistry()}
	r.prom.MustRegister(collector{r})
	return r
}

// Gatherer is the registry as Prometheus's libraries know it.
func (r *Registry) Gatherer() prometheus.Gatherer { return r.prom }

// NewFS makes the place of one more file system.
func (r *Registry) NewFS() *FS {
	f := &FS{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fss = append(r.fss, f)
	return f
}

// list returns the file systems, the newest first.
func (r *Registry) list() []*FS {
	r.mu.Lock()
	defer r.mu.Unlock()
	fss := slices.Clone(r.fss)
	slices.Reverse(fss)
	return fss
}

// collector is Registry as Prometheus asks it.
type collector struct{ r *Registry }

var (
	descs      = makeDescs()
	commitDesc = prometheus.NewDesc(namespace+"commit_seconds", "Seconds from the start of a commit to its completion.",
		[]string{"uuid"}, nil)
)

func makeDescs() []*prometheus.Desc {
	list := make([]*prometheus.Desc, len(table))
	for i, m := range table {
		list[i] = prometheus.NewDesc(namespace+m.name, m.help, append([]string{"uuid"}, m.labels...), nil)
	}
	return list
}

// Describe sends every description.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
	ch <- commitDesc
}

// Collect sends the figures of every file system that has been attached. One that was opened twice is shown as it is
// now: the newest of a UUID counts.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for _, fs := range c.r.list() {
		f := figures{fs.snapshot(), &fs.events, fs.searches.list()}
		if f.UUID == "" || seen[f.UUID] {
			continue
		}
		seen[f.UUID] = true
		for i := range table {
			m := &table[i]
			m.values(&f, func(value float64, labels ...string) {
				ch <- prometheus.MustNewConstMetric(descs[i], m.kind, value, labelValues(f.UUID, labels)...)
			})
		}
		count, sum, buckets := fs.commit.read()
		ch <- prometheus.MustNewConstHistogram(commitDesc, count, sum, buckets, f.UUID)
	}
}

// labelValues puts uuid first. Labels and paths may hold any bytes, but a label's value must be UTF-8.
func labelValues(uuid string, rest []string) []string {
	list := append(make([]string, 0, 1+len(rest)), uuid)
	for _, v := range rest {
		list = append(list, strings.ToValidUTF8(v, "\ufffd"))
	}
	return list
}
