//go:build race

package receive_test

// raceDetector says that everything takes many times as long.
const raceDetector = true
