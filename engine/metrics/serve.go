package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler answers a scrape.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.prom, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
}

// Server is the registry on the network, until Close.
type Server struct {
	http   *http.Server
	listen net.Listener
	done   chan error
}

// Serve listens on addr ("host:port"; an empty host is every interface, port 0 a free one) and answers GET /metrics
// until Close.
func (r *Registry) Serve(addr string) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics address %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", r.Handler())
	s := &Server{listen: l, done: make(chan error, 1), http: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}}
	go func() { s.done <- s.http.Serve(l) }()
	return s, nil
}

// Addr is the address it listens on.
func (s *Server) Addr() net.Addr { return s.listen.Addr() }

// Close answers the scrapes under way, for at most a second, and stops listening.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// WriteTextfile writes all metrics to path in the text format, for node_exporter's textfile collector. The file is
// complete or the old one: it is written under another name, which that collector does not read, and renamed.
func (r *Registry) WriteTextfile(path string) error {
	if err := prometheus.WriteToTextfile(path, r.prom); err != nil {
		return fmt.Errorf("metrics file %s: %w", path, err)
	}
	return nil
}
