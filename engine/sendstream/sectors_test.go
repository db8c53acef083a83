package sendstream_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"imgtool/engine/sendstream"
)

// TestSealSectors compares with Seal.
func TestSealSectors(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 4095, 4096, 4097, 8192, 12288 + 17, 48 << 10, 128 << 10} {
		for range 20 {
			command := make([]byte, 10+rng.IntN(300)+n)
			for i := range command {
				command[i] = byte(rng.Uint32())
			}
			data := command[len(command)-n:]
			var sums []byte
			for i := 0; i+4096 <= n; i += 4096 {
				sums = binary.LittleEndian.AppendUint32(sums, crc32.Checksum(data[i:i+4096], crc32.MakeTable(crc32.Castagnoli)))
			}
			want := bytes.Clone(command)
			sendstream.Seal(want)
			if sendstream.SealSectors(command, n, sums); !bytes.Equal(command, want) {
				t.Fatalf("%d bytes of data: checksum %x, want %x", n, command[6:10], want[6:10])
			}
			if n < 4096 {
				continue
			}
			sums[rng.IntN(len(sums))] ^= 1 // and it is those sums that count
			if sendstream.SealSectors(command, n, sums); bytes.Equal(command, want) {
				t.Fatalf("%d bytes of data: a wrong checksum of a sector makes no difference", n)
			}
		}
	}
}
