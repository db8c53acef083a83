package metrics

import "github.com/prometheus/client_golang/prometheus"

// ReceiveFigures are where the counters of receivings come from: functions that may be called at any time.
type ReceiveFigures struct {
	Commands, Bytes, Data, Clones, Stored, Unpacked, Subvolumes, Errors func() uint64
}

// NewReceive adds the counters of what the file system with that UUID receives. A program makes them once.
func (r *Registry) NewReceive(uuid string, f ReceiveFigures) {
	for _, m := range []struct {
		name, help string
		value      func() uint64
	}{
		{"receive_commands_total", "Commands of send streams carried out or failed.", f.Commands},
		{"receive_bytes_total", "Bytes of send streams received.", f.Bytes},
		{"receive_data_bytes_total", "Bytes of files that came as data.", f.Data},
		{"receive_clones_total", "Ranges of files cloned.", f.Clones},
		{"receive_stored_extents_total", "Compressed pieces of data stored as they came.", f.Stored},
		{"receive_unpacked_extents_total", "Compressed pieces of data that had to be unpacked.", f.Unpacked},
		{"receive_subvolumes_total", "Subvolumes received and committed.", f.Subvolumes},
		{"receive_errors_total", "Commands that failed and were tolerated.", f.Errors},
	} {
		r.prom.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: namespace + m.name, Help: m.help, ConstLabels: prometheus.Labels{"uuid": uuid}},
			func() float64 { return float64(m.value()) }))
	}
}
