package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Scrub is the counters of a scrub. Safe for concurrent use.
type Scrub struct {
	uuid     string
	counters [3]*prometheus.CounterVec // bytes, errors, repaired

	mu   sync.Mutex // guards last
	last map[string][3]uint64
}

// NewScrub adds the counters of a scrub of the file system with that UUID. A program makes them once.
func (r *Registry) NewScrub(uuid string) *Scrub {
	vec := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, []string{"uuid", "type"})
		r.prom.MustRegister(v)
		return v
	}
	return &Scrub{uuid: uuid, last: map[string][3]uint64{}, counters: [3]*prometheus.CounterVec{
		vec("scrub_bytes_total", "Bytes that a scrub has verified, all copies counted."),
		vec("scrub_errors_total", "Bad superblocks, tree blocks and data sectors that a scrub has found."),
		vec("scrub_repaired_total", "Bad superblocks, tree blocks and data sectors that a scrub has repaired."),
	}}
}

// Set brings the counters of one type (super, metadata or data) to where the scrub is now. They never go down.
func (s *Scrub) Set(typ string, bytes, errors, repaired uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, last := [3]uint64{bytes, errors, repaired}, s.last[typ]
	for i, c := range s.counters {
		now[i] = max(now[i], last[i])
		c.WithLabelValues(s.uuid, typ).Add(float64(now[i] - last[i]))
	}
	s.last[typ] = now
}
