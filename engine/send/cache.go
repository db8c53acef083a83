package send

// cache is a bounded map: when the young half is full the old one is forgotten. What is used moves to the young half.
type cache[K comparable, V any] struct {
	young, old map[K]V
	half       int
}

func newCache[K comparable, V any](size int) cache[K, V] {
	return cache[K, V]{young: map[K]V{}, old: map[K]V{}, half: max(size/2, 1)}
}

func (c *cache[K, V]) get(k K) (v V, ok bool) {
	if v, ok = c.young[k]; ok {
		return v, true
	}
	if v, ok = c.old[k]; ok {
		c.put(k, v)
	}
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	if len(c.young) >= c.half {
		c.young, c.old = c.old, c.young
		clear(c.young)
	}
	c.young[k] = v
}
