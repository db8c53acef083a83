// Package disk is the lowest layer of the engine: byte-addressed devices, and the buffers that travel to them. It
// knows nothing of btrfs.
//
// # Devices
//
// A [Device] is a fixed number of bytes that can be read, written, flushed and discarded. Four types implement it:
//
//   - [File], an image file or a block device of the host, opened with O_DIRECT where the host allows it;
//   - [Mem], a sparse device in memory, with cheap clones;
//   - [Recorder], which wraps a device and keeps a log of all that changes it, so that a test can build the image
//     that a crash at any point would have left;
//   - [Faults], which wraps a device and makes it fail, by rule and by seed.
//
// # What is durable
//
// A write that has returned is visible to every later read, but it survives a power cut only once a [Device.Flush]
// that began after its return has returned without error. A flush says nothing of writes still under way. After a
// failed flush a File stays failed: the kernel reports a write-back error once and may drop the dirty pages, so a second
// flush that succeeds would prove nothing.
//
// # Alignment
//
// A device opened with O_DIRECT transfers whole blocks to aligned memory. ReadAt and WriteAt take any offset and any
// buffer all the same: what is aligned as [Device.Align] says goes straight to the device, anything else through an
// aligned bounce buffer, and a write that begins or ends inside a block reads that block first. So alignment is a
// matter of speed and never of correctness. Buffers from a [Pool] are aligned for every device.
//
// # Queue depth
//
// One goroutine drives a device at depth one. [Do] and [Queue] spread a batch of requests over several goroutines,
// each in its own pread or pwrite.
//
// # Locks of the package, outermost first
//
// File.write (RW; aligned writes share it, a read-modify-write has it alone), then Pool class locks. Mem's shard
// locks, Recorder's and Faults' mutexes are leaves; none is held over a call to another device, so a device wrapped
// in Faults with latency is fit for a synctest bubble.
package disk
