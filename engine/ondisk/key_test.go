package ondisk

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func drawKey(t *rapid.T, label string) Key {
	num := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 3), rapid.Uint64Range(^uint64(0)-3, ^uint64(0)))
	return Key{ObjectID(num.Draw(t, label+" objectid")), ItemType(rapid.Byte().Draw(t, label+" type")), num.Draw(t, label+" offset")}
}

// bigEndian is the model: keys order as their bytes do when the numbers are written big-endian.
func bigEndian(k Key) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(k.ObjectID))
	b = append(b, byte(k.Type))
	return binary.BigEndian.AppendUint64(b, k.Offset)
}

func TestKeyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawKey(t, "a"), drawKey(t, "b")
		want := bytes.Compare(bigEndian(a), bigEndian(b))
		if a.Compare(b) != want || b.Compare(a) != -want || a.Less(b) != (want < 0) || (a == b) != (want == 0) {
			t.Fatalf("%s and %s: %d expect %d", a, b, a.Compare(b), want)
		}
		if MinKey.Compare(a) > 0 || MaxKey.Compare(a) < 0 {
			t.Fatalf("%s is out of bounds", a)
		}
		next := new(big.Int).Add(new(big.Int).SetBytes(bigEndian(a)), big.NewInt(1))
		if a == MaxKey {
			next.Sub(next, big.NewInt(1))
		}
		if got := new(big.Int).SetBytes(bigEndian(a.Next())); got.Cmp(next) != 0 {
			t.Fatalf("next of %s is %s", a, a.Next())
		}
		var p [KeySize]byte
		if PutKey(p[:], a); GetKey(p[:]) != a {
			t.Fatalf("%s does not survive encoding", a)
		}
	})
	if MaxKey.Next() != MaxKey {
		t.Error("MaxKey has a next")
	}
}

func TestKeyText(t *testing.T) {
	for want, k := range map[string]Key{
		"(257 INODE_ITEM 0)": {257, InodeItemKey, 0}, "(-5 ORPHAN_ITEM 300)": {OrphanObjectID, OrphanItemKey, 300},
		"(1 UNKNOWN.2 3)": {1, 2, 3},
	} {
		if k.String() != want {
			t.Errorf("%s expect %s", k, want)
		}
	}
	if s := DataRelocTree.String() + " " + TreeID(256).String() + " " + TreeID(^uint64(99)).String(); s != "DATA_RELOC_TREE 256 -100" {
		t.Error(s)
	}
}

func TestTreeKinds(t *testing.T) {
	for _, d := range []struct {
		id           TreeID
		subvol, file bool
	}{
		{RootTree, false, false}, {FSTree, true, true}, {255, false, false}, {256, true, true}, {LastSubvolID, true, true},
		{LastSubvolID + 1, false, false}, {DataRelocTree, false, true}, {TreeRelocTree, false, true}, {TreeLogTree, false, false},
	} {
		if d.id.IsSubvolume() != d.subvol || d.id.IsFileTree() != d.file {
			t.Errorf("tree %s: %t %t", d.id, d.id.IsSubvolume(), d.id.IsFileTree())
		}
	}
}

func TestUUIDKey(t *testing.T) {
	u := UUID{0x2a, 0xaa, 0x8a, 0x09, 0xe9, 0x0d, 0x9f, 0x46, 0x9b, 0x45, 0xea, 0x64, 0x36, 0x34, 0x00, 0x4f}
	if u.String() != "2aaa8a09-e90d-9f46-9b45-ea643634004f" || u.IsZero() || !(UUID{}).IsZero() {
		t.Error(u)
	}
	// The kernel's item for this subvolume, as dump-tree printed it.
	if k := u.UUIDKey(UUIDKeySubvol); k != (Key{0x469f0de9098aaa2a, UUIDKeySubvol, 0x4f00343664ea459b}) {
		t.Error(k)
	}
}
