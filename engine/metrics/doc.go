// Package metrics shows the engine to Prometheus.
//
// A [Registry] is private: nothing of it is in Prometheus's global one, so that two programs, or two tests, in a process
// do not see each other. Each open file system has an [FS] in it, which learns from two sides:
//
//	trace events  ->  FS.Trace   things that happen: COWed blocks, snapshots, the seconds of a commit
//	Stats()       ->  FS.Attach  figures that somebody keeps anyway; asked for at each scrape, never in between
//
// Names begin with imgtool_btrfs_; where node_exporter has a figure of the same meaning, the rest of the name and the
// labels (uuid, block_group_type, mode, device) are node_exporter's, so that its dashboards need one word changed. The
// whole list is one table, in table.go.
//
// The registry is read over HTTP while a command runs (Registry.Serve), or as a file for node_exporter's textfile
// collector when it has ended (Registry.WriteTextfile). After [FS.Freeze] the last figures stay.
package metrics
