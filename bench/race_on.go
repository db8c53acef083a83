//go:build race

package bench

// raceDetector says that this build has the race detector.
const raceDetector = true
