package disk

import "fmt"

// DirectMode says whether a [File] goes around the host's page cache. It is a pflag.Value.
type DirectMode int

const (
	// DirectAuto uses O_DIRECT, or the page cache with one warning where the host file system refuses.
	DirectAuto DirectMode = iota
	// DirectOn uses O_DIRECT, and it is an error when the host file system refuses.
	DirectOn
	// DirectOff uses the page cache.
	DirectOff
)

var directNames = [...]string{"auto", "on", "off"}

// String is "auto", "on" or "off".
func (m DirectMode) String() string {
	if m >= 0 && int(m) < len(directNames) {
		return directNames[m]
	}
	return fmt.Sprintf("DirectMode(%d)", int(m))
}

// Set parses what String gives.
func (m *DirectMode) Set(s string) error {
	for i, name := range directNames {
		if s == name {
			*m = DirectMode(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not auto, on or off", s)
}

// Type is what the help shows for the flag's value.
func (m *DirectMode) Type() string { return "auto|on|off" }

// Options of [Open] and [Create].
type Options struct {
	// ReadOnly opens for reading: writes match syscall.EROFS, and other readers may have the file too.
	ReadOnly bool
	// ForceReadonly is ReadOnly without the refusals that match ErrBusy. Somebody else may be writing: what is read
	// may be no state that the file system was ever in.
	ForceReadonly bool
	// Reuse lets Create take a regular file that exists, with its content.
	Reuse bool
	// Direct says whether to use O_DIRECT.
	Direct DirectMode
	// Warn is told once when DirectAuto falls back to the page cache. Nil drops it.
	Warn func(msg string)
}

func (o *Options) readOnly() bool { return o.ReadOnly || o.ForceReadonly }
