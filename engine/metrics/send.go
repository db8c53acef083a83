package metrics

import "github.com/prometheus/client_golang/prometheus"

// SendFigures are where the counters of sends come from: functions that may be called at any time.
type SendFigures struct {
	Commands, Bytes, Inodes, Searches, CacheHits, Waits func() uint64
}

// NewSend adds the counters of the sends of the file system with that UUID. A program makes them once.
func (r *Registry) NewSend(uuid string, f SendFigures) {
	for _, m := range []struct {
		name, help string
		value      func() uint64
	}{
		{"send_commands_total", "Commands of send streams encoded.", f.Commands},
		{"send_bytes_total", "Bytes of send streams written.", f.Bytes},
		{"send_inodes_total", "Inodes that sends have visited.", f.Inodes},
		{"send_searches_total", "Searches of trees that sends have made.", f.Searches},
		{"send_cache_hits_total", "Searches that caches of sends have saved.", f.CacheHits},
		{"send_waits_total", "Times that a send's output was full.", f.Waits},
	} {
		r.prom.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: namespace + m.name, Help: m.help, ConstLabels: prometheus.Labels{"uuid": uuid}},
			func() float64 { return float64(m.value()) }))
	}
}
