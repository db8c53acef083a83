package compress

import (
	"encoding/binary"
	"fmt"

	lzo "github.com/anchore/go-lzo"
)

// lzoFrame documents btrfs' LZO framing (fs/btrfs/lzo.c, top): a 32-bit little-endian total length that includes itself,
// then segments, each a 32-bit length of what follows and an LZO1X stream of one sector's data. A segment's length field
// never crosses a sector boundary of the frame: where fewer than four bytes are left in a sector they are padding. An
// inline extent has the same form with one segment.
const lzoLen = 4

// lzoWorst bounds the compressed size of one sector: LZO expands by at most a sixteenth plus 67 bytes.
func lzoWorst(sectorSize int) int { return sectorSize + sectorSize/16 + 64 + 3 }

// unlzo unpacks an LZO frame and returns how many bytes of dst it filled.
func unlzo(dst, src []byte, sectorSize int) (int, error) {
	if len(src) < 2*lzoLen {
		return 0, errShort
	}
	total := int64(binary.LittleEndian.Uint32(src))
	if total < 2*lzoLen || total > int64(len(src)) {
		return 0, fmt.Errorf("total length %d in an extent of %d bytes", total, len(src))
	}
	src = src[:total]
	out := 0
	for at := lzoLen; at < len(src) && out < len(dst); {
		if left := sectorSize - at%sectorSize; left < lzoLen {
			at += left
		}
		if len(src)-at < lzoLen {
			return out, errShort
		}
		n := int64(binary.LittleEndian.Uint32(src[at:]))
		at += lzoLen
		if n > int64(lzoWorst(sectorSize)) || n > int64(len(src)-at) {
			return out, fmt.Errorf("segment of %d bytes at %d in a frame of %d", n, at, len(src))
		}
		got, err := unlzoSegment(dst[out:], src[at:at+int(n)], sectorSize)
		out += got
		if err != nil {
			return out, fmt.Errorf("segment at %d: %w", at, err)
		}
		at += int(n)
	}
	return out, nil
}

// unlzoSegment unpacks one sector. A segment may unpack to more than is left of dst: the extent's last one.
func unlzoSegment(dst, seg []byte, sectorSize int) (int, error) {
	if len(dst) >= sectorSize {
		return lzo.Decompress(seg, dst[:sectorSize])
	}
	whole := make([]byte, sectorSize)
	n, err := lzo.Decompress(seg, whole)
	if err != nil {
		return 0, err
	}
	return copy(dst, whole[:n]), nil
}
