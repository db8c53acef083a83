package main

import "github.com/spf13/cobra"

func (a *app) subvolumeCmd() *cobra.Command {
	return group(&cobra.Command{Use: "subvolume", Short: "make, snapshot, list and delete subvolumes"},
		a.subvolumeCreateCmd(), a.subvolumeSnapshotCmd(), a.subvolumeDeleteCmd(), a.subvolumeListCmd(),
		a.subvolumeGetDefaultCmd(), a.subvolumeSetDefaultCmd(), a.subvolumeShowCmd())
}
